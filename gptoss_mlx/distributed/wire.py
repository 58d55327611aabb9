"""Messages between ranks: a line of JSON each over a TCP connection. A connection is never silent for long, because a
thread sends a beat every second. Knows no messages but the beat.

Only what the first line proves to know the token is listened to. What follows is read as data and never executed.
"""

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

BEAT_SECONDS = 1.0
"""How often each end says that it lives."""

SILENT_SECONDS = 6.0
"""How long a connection may be silent before its other end counts as stalled. All ranks are to end within 10 s."""

BEAT = "beat"
RING_ERROR = "[ring]"
"""How MLX's errors begin where hidden states can no longer be sent: a neighbour in the ring is gone."""

MOST = 1 << 24
"""The longest line, in bytes."""


@dataclass(eq=False)
class Wire:
    """One end of a connection. Several threads may send, one receives."""

    socket: socket.socket
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _unread: bytearray = field(default_factory=bytearray, init=False)

    def __post_init__(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(SILENT_SECONDS)

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError where the other end is gone or does not read."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self.socket.sendall(line)

    def receive(self) -> Any:
        """Wait for a message, and return it. Raises TimeoutError after SILENT_SECONDS of silence, and OSError where the
        connection has ended or what came is no message."""
        while (end := self._unread.find(b"\n")) < 0:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("it was closed")
            self._unread += data
            if len(self._unread) > MOST:
                raise ConnectionError("a message is too long")
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConnectionError("a message is no JSON") from error
