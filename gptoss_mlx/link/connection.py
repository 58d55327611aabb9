"""The connection to a server of this machine: whether there is one, what it serves, and messages to and fro."""

import itertools
import socket
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import EngineError
from gptoss_mlx.link.protocol import MAX_LINE, VERSION, Message, from_line, socket_path, to_error, to_line

HELLO_SECONDS = 5.0
"""The longest to wait for a server's first line. Something else may listen there, or a server that is stopped."""

POLL_SECONDS = 0.05
"""How often a client that waits looks whether it was cancelled."""

GONE = (
    "the server that has the model has ended; run the command again, or in a chat /model with its name, and the model "
    "is loaded here"
)


@dataclass(frozen=True)
class Served:
    """A model that a server offers. ``hash`` is the model's, as for Runtime."""

    name: str
    folder: Path
    hash: str


class Connection:
    """A connection to the server, whose ``models`` are those it serves, the one in memory first. ``pid`` is its
    process, ``url`` and ``key`` are those of its HTTP. Raises OSError and ValueError where no server with our version
    answers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ids = itertools.count(1)
        self.broken = False
        try:
            self._socket.settimeout(HELLO_SECONDS)
            self._socket.connect(str(socket_path()))
            self._send({"version": VERSION})
            hello = self.receive(HELLO_SECONDS)
            if hello is None or hello.get("version") != VERSION:
                raise ValueError("another version")
            self.models = [Served(model["name"], Path(model["folder"]), model["hash"]) for model in hello["models"]]
            self.pid: int = hello["pid"]
            self.url: str = hello["url"]
            self.key: str | None = hello["key"]
        except BaseException as error:
            self.close()
            if isinstance(error, EngineError | KeyError | TypeError):
                raise ValueError("no server of ours") from error
            raise

    def request(self, do: str, **fields: Any) -> int:
        """Send a request and return its id. Raises EngineError."""
        id = next(self._ids)
        self._send({"id": id, "do": do} | fields)
        return id

    def end(self, id: int) -> None:
        """End a request, if the server is still there."""
        if not self.broken:
            try:
                self._send({"id": id, "do": "end"})
            except EngineError:
                self.broken = True

    def receive(self, seconds: float) -> Message | None:
        """Return the next message, or None if none comes in time. Raises EngineError if the server is gone."""
        end = time.monotonic() + seconds
        while not self._lines:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
            if not data or len(self._rest) > MAX_LINE:
                self.broken = True
                raise EngineError(GONE)
        try:
            return from_line(self._lines.popleft())
        except ValueError:
            self.broken = True
            raise EngineError(GONE) from None

    def answer(self, id: int) -> Message:
        """Wait for the one answer to a request and return it. Raises its error."""
        while True:
            message = self.receive(POLL_SECONDS)
            if message is not None and message.get("id") == id:
                if "error" in message:
                    raise to_error(message["error"])
                return message

    def close(self) -> None:
        """Close the connection. The server ends what it does for it."""
        self.broken = True
        self._socket.close()

    def _send(self, message: Message) -> None:
        self._socket.settimeout(None)
        try:
            self._socket.sendall(to_line(message))
        except OSError as error:
            self.broken = True
            raise EngineError(GONE) from error


def find_server() -> Connection | None:
    """Return a connection to this user's server, or None if there is none that speaks our version."""
    try:
        return Connection()
    except (OSError, ValueError):
        return None


def model_of(connection: Connection, hash: str) -> Served | None:
    """Return the model of that hash among those of a server."""
    return next((served for served in connection.models if served.hash == hash), None)
