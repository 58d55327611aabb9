"""The serving process: its socket, its signals and its end. Knows no endpoint.

SIGTERM, Ctrl-C or a closed terminal drains: no request is accepted any more, and those under way end. A second one
stops at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from h11 import IDLE
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from gptoss_mlx.errors import UsageError
from gptoss_mlx.server.app import build
from gptoss_mlx.server.guard import is_loopback
from gptoss_mlx.server.link import Link
from gptoss_mlx.server.owner import Owner
from gptoss_mlx.server.residence import Loaded, Residence
from gptoss_mlx.server.service import Service

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

HEAD_SECONDS = 20.0
"""The longest a client may take to send a request's line and headers."""

KEEP_SECONDS = 75
"""How long a connection stays open without a request."""

QUEUED = 64
"""Requests that may wait beside those that are answered."""

CONNECTIONS = 1024
"""Open connections, idle ones included, after which a request is answered with 503."""

END_SECONDS = 10.0
"""How long to wait for the step under way when the server stops."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve the models ``names``. ``folder`` returns the folder of one. ``idle_unload`` is in seconds.
    ``working`` is entered while there is work. ``guarded`` is as for Service. ``say`` tells the user something."""

    names: Sequence[str]
    load: Callable[[str], Loaded]
    unload: Callable[[], None]
    folder: Callable[[str], Path]
    say: Callable[[str], None]
    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = None
    origins: Sequence[str] = ()
    max_rows: int = 16
    idle_unload: float | None = None
    working: Callable[[], AbstractContextManager[object]] = nullcontext
    guarded: bool = True


def serve(settings: Settings, started: Callable[[str], None]) -> signal.Signals | None:
    """Serve until a signal ends it, and return that signal. Call it on the main thread. ``started`` is called with the
    server's address once it takes requests. Raises UsageError for an address that cannot be used, and what loading the
    first model raises."""
    check_reach(settings.host, settings.key)
    with listening(settings.host, settings.port) as listener:
        return asyncio.run(_serve(settings, listener, started))


def check_reach(host: str, key: str | None) -> None:
    """Raise UsageError where other machines could use the server without a key."""
    if key is None and not is_loopback(host):
        raise UsageError(f"--host {host} lets other machines in, which needs a key; add --api-key")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Have a socket bound to ``host`` and ``port`` inside the block. Port 0 takes a free one. Raises UsageError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        why = error.strerror if unknown else os.strerror(error.errno or 0)  # Python's own names the address again
        other = "--host" if unknown else "--port"
        raise UsageError(f"{host} port {port} cannot be used ({why}); choose another {other}") from error
    with listener:
        yield listener


async def _serve(settings: Settings, listener: socket.socket, started: Callable[[str], None]) -> signal.Signals | None:
    loop = asyncio.get_running_loop()
    # It says so each time a client has left while something was being sent to it.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

    def post(work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the thread
            loop.call_soon_threadsafe(work)

    owner = Owner(post, settings.working)
    residence = Residence(owner, settings.names, settings.load, settings.unload)
    service = Service(owner, residence, settings.max_rows + QUEUED, guarded=settings.guarded)
    app = build(
        service,
        host=settings.host,
        key=settings.key,
        origins=settings.origins,
    )
    server = Server(app, lambda: started(f"{_address(settings.host, listener)}/v1"))
    owner.start()
    unloading = None
    try:
        with server.signals():
            async with residence.lease(None):
                pass
            if settings.idle_unload is not None:
                unloading = asyncio.create_task(residence.unload_when_idle(settings.idle_unload))
            http = {"url": _address(settings.host, listener), "key": settings.key}
            link = Link(service, settings.folder, lambda: server.should_exit, http)
            async with link.listening() as problem:
                if problem is not None:
                    settings.say(problem)
                await server.serve([listener])
                await link.drain(lambda: server.force_exit)
            if not server.force_exit:
                await residence.close()
    finally:
        if unloading is not None:
            unloading.cancel()
        await asyncio.to_thread(owner.close, END_SECONDS)
    return server.caught


class Server(uvicorn.Server):
    """uvicorn's server, with our signals. ``caught`` is the signal that ended it."""

    def __init__(self, app: ASGIApp, started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_SECONDS,
            limit_concurrency=CONNECTIONS,
        )
        super().__init__(config)
        self.caught: signal.Signals | None = None
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say_started()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle signals inside the block, from before the first model is loaded."""
        taken = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        before = {number: signal.signal(number, self.handle_exit) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``signals``. uvicorn calls this, and would raise them again afterwards."""
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.caught = signal.Signals(sig)


class TimedProtocol(H11Protocol):
    """uvicorn's connection, which closes if a request's head takes too long. uvicorn itself waits for ever. It also
    answers bytes that are no HTTP beside the application, which then fails."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not IDLE:
            self._stop()
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP. A request they belong to, which is being answered, may not answer too."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        super().send_400_response(msg)

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()


def _address(host: str, listener: socket.socket) -> str:
    """Return the URL of the server."""
    shown: Any = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
