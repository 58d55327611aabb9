"""One request and its response: a JSON body in, and JSON or a stream of events out, while the client is there.

The module knows HTTP, as ASGI has it, and JSON. It knows no endpoint.
"""

import asyncio
import json
import logging
import traceback
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from gptoss_mlx.errors import shown
from gptoss_mlx.server.problems import Problem, problem_of
from gptoss_mlx.text_input import json_without_surrogates

MAX_BODY = 32 << 20
"""Bytes. Anthropic's own limit. A prompt of 131,072 tokens has about 0.5 MB."""

DRAINED = 1 << 30
"""Bytes of a body too large that are read and thrown away, because most clients read no response before they have sent
all."""

BODY_SECONDS = 30.0
"""The longest a client may pause while it sends a body."""

Dialect = Literal["openai", "anthropic"]

log = logging.getLogger("gptoss_mac.server")


class Exchange:
    """A request whose ``body`` has been read, and the response to it. ``notes`` collects what of it was overlooked.
    They become headers, so they must be complete before the response begins. ``started`` is when the server began, in
    Unix seconds, and ``size`` the bytes of the body."""

    def __init__(self, scope: Scope, body: Any, send: Send, dialect: Dialect, started: int = 0) -> None:
        self.body = body
        self.notes: list[str] = []
        self.path: str = scope["path"]
        self.started = started
        self.size = 0
        self.query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        self.params: Mapping[str, str] = scope.get("path_params", {})
        self.headers: Mapping[str, str] = {
            key.decode("latin-1"): val.decode("latin-1") for key, val in scope["headers"]
        }
        self.id = uuid.uuid4().hex
        self.dialect = dialect
        self.begun = False
        self._send = send

    async def reply(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send ``content`` as JSON. It is the whole response."""
        await self.send(to_json(content), "application/json", status, headers)

    async def send(self, data: bytes, kind: str, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send ``data``, whose media type is ``kind``. It is the whole response."""
        await self._begin(status, kind, {"content-length": str(len(data))} | dict(headers or {}))
        await self._send({"type": "http.response.body", "body": data})

    async def fail(self, problem: Problem) -> None:
        """Send an error as the whole response."""
        if self.dialect == "anthropic":
            content = {"type": "error", "error": problem.anthropic, "request_id": f"req_{self.id}"}
        else:
            content = {"error": problem.openai}
        await self.reply(content, problem.status, problem.headers)

    async def event(self, data: Any, name: str | None = None) -> None:
        """Send an event of a stream. ``data`` is made JSON, but for text. The first one begins the response."""
        if not self.begun:
            await self._begin(200, "text/event-stream", {"cache-control": "no-cache", "x-accel-buffering": "no"})
        text = data.encode() if isinstance(data, str) else to_json(data)
        head = b"" if name is None else b"event: " + name.encode() + b"\n"
        await self._send({"type": "http.response.body", "body": head + b"data: " + text + b"\n\n", "more_body": True})

    async def end(self) -> None:
        """End a stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.begun = True
        own = {"content-type": kind, "x-request-id": f"req_{self.id}", "request-id": f"req_{self.id}"}
        pairs = [*(own | dict(headers)).items(), *(("warning", _warning(note)) for note in self.notes[:MAX_WARNINGS])]
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})


MAX_WARNINGS = 20
"""Headers with what was overlooked. Clients refuse a response with a hundred headers."""

Endpoint = Callable[[Exchange], Awaitable[None]]


class Answer:
    """An ASGI application that answers with ``endpoint``, in the words of a ``dialect``. With ``body`` the request must
    have a JSON body. ``endpoint`` is cancelled when the client is gone."""

    def __init__(
        self, endpoint: Endpoint, dialect: Dialect = "openai", *, body: bool = False, started: int = 0
    ) -> None:
        self._started = started
        self._endpoint = endpoint
        self._dialect = dialect
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, None, send, self._dialect, self._started)
        try:
            data = await _read_body(exchange.headers, receive)
            exchange.size = len(data)
            if self._body:
                exchange.body = from_json(data)
            await _while_there(self._endpoint(exchange), receive)
        except _Gone:
            pass
        except Exception as error:
            problem = problem_of(error)
            if problem.status >= 500:
                log_failure(error)
            if exchange.begun:
                raise _Cut from None
            await exchange.fail(problem)


class _Gone(Exception):
    """The client closed the connection before it had sent its request."""


class _Cut(Exception):
    """A response that had begun cannot be completed. The connection is closed, so that the client notices."""


def to_json(content: Any) -> bytes:
    """Return ``content`` as JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def from_json(data: bytes) -> Any:
    """Return what the JSON text ``data`` says. Raises Problem."""
    try:
        return json_without_surrogates(json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant))
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8, at byte {error.start:,}", "invalid_json") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply", "invalid_json") from None
    except ValueError as error:
        raise Problem(400, shown(f"the body is not JSON: {str(error)[:200]}"), "invalid_json") from None


def log_failure(error: Exception) -> None:
    """Log where ``error`` was raised. Its message is left out, because it may quote a prompt."""
    where = traceback.extract_tb(error.__traceback__)
    lines = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(where[-6:]))
    log.error("a request failed: %s at %s", type(error).__name__, lines)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _warning(note: str) -> str:
    """Return a note as the value of a Warning header, in ASCII."""
    text = shown(note)[:300].encode("ascii", "backslashreplace").decode()
    return '299 gptoss-mac "{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))


async def _read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    """Return the request's body. Raises Problem for one that is too large or too slow, and _Gone without a client."""
    declared = headers.get("content-length", "")
    pieces: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await receive()
        except TimeoutError:
            raise Problem(408, f"nothing came for {BODY_SECONDS:.0f} s before the body ended", "timeout") from None
        if message["type"] != "http.request":
            raise _Gone
        piece = message.get("body", b"")
        size += len(piece)
        if size <= MAX_BODY:
            pieces.append(piece)
        else:
            pieces.clear()
        if not message.get("more_body"):
            break
        if size > DRAINED or (declared.isdigit() and int(declared) > DRAINED):
            break
    if size > MAX_BODY:
        raise Problem(413, f"the body is larger than {MAX_BODY:,} bytes; send less", "request_too_large")
    return b"".join(pieces)


async def _while_there(work: Awaitable[None], receive: Receive) -> None:
    """Wait for ``work``. Cancel it when the client closes the connection, and when this is cancelled."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
