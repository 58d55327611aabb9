"""Tools of MCP servers, through the protocol's own SDK: programs of this machine (stdio), and servers over HTTP.

The configuration is the JSON that other programs use: an object ``mcpServers`` that has, for each name, ``command``,
``args``, ``env`` and ``cwd``, or ``url`` and ``headers``. Ours are ``trusted``, whose calls need nobody's consent, and
``timeout``, in seconds. The connections live in a thread of their own, because the SDK is asynchronous.
"""

import asyncio
import importlib.util
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_mlx.errors import UsageError, one_line, quoted
from gptoss_mlx.harmony import Function
from gptoss_mlx.tools.tool import POLL_SECONDS, SECONDS, Run, Tool, ToolFailure

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult
    from mcp.types import Tool as Offered

START_SECONDS = 60.0
"""How long a server may take to start and to list its tools. The first start of one may install it."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "command": str,
    "args": list,
    "env": dict,
    "cwd": str,
    "url": str,
    "headers": dict,
    "trusted": bool,
    "timeout": (int, float),
    "type": str,
}


@dataclass(frozen=True)
class Server:
    """How to reach a server: by starting ``command``, or at ``url`` if that is empty."""

    name: str
    command: str = ""
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    trusted: bool = False
    timeout: float = SECONDS


def read_config(path: Path) -> list[Server]:
    """Return the servers of a configuration. Raises UsageError for a file that cannot be read, and for what is missing,
    unknown or of another type in it."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--mcp {path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--mcp {path}: it is not JSON in UTF-8 ({one_line(error)})") from error
    servers = found.get("mcpServers") if isinstance(found, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise UsageError(f"--mcp {path}: it has no object 'mcpServers' with a server")
    return [_server(f"--mcp {path}: server {quoted(name)}", name, given) for name, given in servers.items()]


@contextmanager
def mcp_tools(servers: Iterable[Server]) -> Iterator[list[Tool]]:
    """Connect to the servers, and yield their tools. At the end of the block the servers are ended. Raises UsageError
    for one that cannot be reached, with what installs the SDK if that is missing."""
    if importlib.util.find_spec("mcp") is None:
        raise UsageError("--mcp needs the protocol's SDK; install it: `pip install 'gptoss-mac[mcp]'`")
    connections = _Connections()
    try:
        tools = [tool for tools in connections.connect(list(servers)) for tool in tools]
        names = [tool.name for tool in tools]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"--mcp: two tools would be called '{double}'; give a server another name")
        yield tools
    finally:
        connections.close()


class _Connections:
    """A thread with an event loop, in which each server has a task."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="mcp")
        self._thread.start()
        self._tasks: list[asyncio.Task[None]] = []
        self._end = asyncio.Event()
        self._connected = False

    def connect(self, servers: list[Server]) -> list[list[Tool]]:
        """Return the tools of each server. All start at once."""
        return self._wait(self._connect(servers))

    def close(self) -> None:
        """End all connections, and with them the servers that were started."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self, servers: list[Server]) -> list[list[Tool]]:
        ready: list[asyncio.Future[list[Tool]]] = []
        for server in servers:
            ready.append(self._loop.create_future())
            self._tasks.append(asyncio.create_task(self._serve(server, ready[-1])))
        tools = [await self._tools(server, one) for server, one in zip(servers, ready, strict=True)]
        self._connected = True
        return tools

    async def _tools(self, server: Server, ready: "asyncio.Future[list[Tool]]") -> list[Tool]:
        where = f"--mcp: server {quoted(server.name)} ({server.command or server.url})"
        try:
            return await asyncio.wait_for(ready, START_SECONDS)
        except TimeoutError as error:
            raise UsageError(f"{where} did not answer within {START_SECONDS:g} seconds") from error
        except Exception as error:
            raise UsageError(f"{where} cannot be used: {one_line(_cause(error))}") from error

    async def _serve(self, server: Server, ready: "asyncio.Future[list[Tool]]") -> None:
        """Hold one connection until the end. Its context managers must be left by the task that entered them."""
        try:
            async with _client(server) as client:
                tools = [self._tool(server, client, one) for one in await _listed(client)]
                if not ready.done():
                    ready.set_result(tools)
                await self._end.wait()
        except Exception as error:
            if not ready.done():
                ready.set_exception(error)

    async def _close(self) -> None:
        self._end.set()
        if not self._connected:
            for task in self._tasks:
                task.cancel()
        _, late = await asyncio.wait(self._tasks, timeout=10) if self._tasks else (set(), set())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _tool(self, server: Server, client: "Client", offered: "Offered") -> Tool:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.name}_{offered.name}")
        schema = offered.input_schema if offered.input_schema.get("properties") else None
        declared = Function(name, offered.description or "", schema)
        run = self._caller(client, offered.name, server.timeout)
        # The connection's own limit comes first, because the server is then told.
        return Tool(declared, run, f"server {server.name}", server.trusted, server.timeout + 5)

    def _caller(self, client: "Client", name: str, seconds: float) -> Run:
        def run(arguments: dict[str, Any], stop: threading.Event) -> str:
            work = client.call_tool(name, arguments, read_timeout_seconds=seconds)
            future: Future[CallToolResult] = asyncio.run_coroutine_threadsafe(work, self._loop)
            while not future.done():
                if stop.wait(POLL_SECONDS):
                    future.cancel()
            try:
                result = future.result()
            except CancelledError as error:
                raise ToolFailure("the call was cancelled, or the server has ended") from error
            except Exception as error:
                raise ToolFailure(one_line(_cause(error))) from error
            if result.is_error:
                raise ToolFailure(_said(result))
            return _said(result)

        return run


@asynccontextmanager
async def _client(server: Server) -> AsyncIterator["Client"]:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

    if server.command:
        parameters = StdioServerParameters(
            command=server.command, args=server.args, env=server.env or None, cwd=server.cwd
        )
        # What a server logs would disturb the screen.
        with open(os.devnull, "w") as log:
            async with Client(stdio_client(parameters, errlog=log)) as client:
                yield client
        return
    async with (
        create_mcp_http_client(headers=server.headers or None) as http,
        Client(streamable_http_client(server.url, http_client=http)) as client,
    ):
        yield client


async def _listed(client: "Client") -> list["Offered"]:
    """Return all tools of a server, page by page."""
    found = await client.list_tools()
    tools = list(found.tools)
    while found.next_cursor:
        found = await client.list_tools(cursor=found.next_cursor)
        tools += found.tools
    return tools


def _said(result: "CallToolResult") -> str:
    """Return a result as text. What is no text is named."""
    parts = []
    for block in result.content:
        text = getattr(block, "text", None) or getattr(getattr(block, "resource", None), "text", None)
        about = getattr(block, "mime_type", None) or getattr(block, "uri", None)
        parts.append(
            text if text is not None else f"[{block.type}{f' {about}' if about else ''}, which cannot be shown]"
        )
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _cause(error: BaseException) -> BaseException:
    """Return the error inside the groups in which the SDK's tasks raise it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _server(where: str, name: str, given: Any) -> Server:
    if not isinstance(given, dict):
        raise UsageError(f"{where} is no object")
    for key, value in given.items():
        if key not in _KINDS:
            raise UsageError(f"{where}: {quoted(key)} is unknown; use {', '.join(_KINDS)}")
        if not isinstance(value, _KINDS[key]) or (key == "timeout" and isinstance(value, bool)):
            raise UsageError(f"{where}: {key} is {quoted(value)}, which is of the wrong type")
        texts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        if not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{where}: {key} has a value that is no text")
    if bool(given.get("command")) == bool(given.get("url")):
        raise UsageError(f"{where}: give it either a command or a url")
    if given.get("timeout", 1) <= 0:
        raise UsageError(f"{where}: timeout is {given['timeout']}; it must be more than 0")
    return Server(name, **{key: value for key, value in given.items() if key != "type"})
