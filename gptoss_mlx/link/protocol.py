"""What goes over the socket: a line of JSON for each message.

The client says ``{"version": 1}`` first, and the server answers with its own version, its process, the models it
serves, and the URL and the key of its HTTP. Neither goes on with another version. Each request then has an ``id`` and
what to ``do``; every answer to it has that id:

    generate   {"tokens": [...], "cached": N, "finished": null, "stop" or "length"}, again and again, and
               {"read": N} while the prompt is read
    end        nothing: the request of that id is over, or soon
    open       {"value": {"context": N, "row_tokens": N}}: loads the model if it is not in memory
    reusable   {"value": N}: how many ids of a prompt need not be read
    score      {"scores": [...]}

An ``error`` ends a request: ``{"error": {"type": ..., "message": ...}}``, one of ``gptoss_mlx.errors``. Knows no model.
"""

import json
from pathlib import Path
from typing import Any

from gptoss_mlx import errors
from gptoss_mlx.errors import EngineError, GptOssError
from gptoss_mlx.home import home_dir

VERSION = 1
"""Of the protocol. Raise it with every change that an older program would misread."""

MAX_LINE = 1 << 24
"""Bytes. A prompt of 131,072 ids takes one."""

PATH_BYTES = 103
"""The longest path of a socket, by ``sockaddr_un`` of macOS less its closing zero. Linux has four more."""

Message = dict[str, Any]


def socket_path() -> Path:
    """Return where the server of this user listens."""
    return home_dir() / "model.socket"


def lock_path() -> Path:
    """Return the file that the listening server locks."""
    return home_dir() / "model.lock"


def to_line(message: Message) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """Return the message in a line. Raises ValueError for what is none."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def from_error(error: Exception) -> Message:
    """Return what is said of ``error``. Of one that is none of ours only its type is."""
    if isinstance(error, GptOssError):
        return {"type": type(error).__name__, "message": str(error)}
    return {"type": EngineError.__name__, "message": f"the server failed ({type(error).__name__}); its log says where"}


def to_error(said: Message) -> GptOssError:
    """Return the error that the server met, of the same type."""
    named = getattr(errors, str(said.get("type")), None)
    kind: type[GptOssError] = named if isinstance(named, type) and issubclass(named, GptOssError) else EngineError
    error = kind.__new__(kind)  # some take more than a message
    Exception.__init__(error, str(said.get("message")))
    return error
