"""The file of messages typed into chats, so that the next chat can recall them. Several chats may add to it at once."""

import json
import os
from contextlib import suppress

from gptoss_mlx.home import history_file

MOST_BYTES = 1_000_000
"""As much of the file's end is read. What is older is not recalled."""


def read_typed() -> list[str]:
    """Return what was typed, the latest first. A line is a JSON string, or text from before the file had JSON. A file
    that cannot be read is empty: a chat works without it."""
    try:
        with history_file().open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return []
    if size > MOST_BYTES:
        lines = lines[1:]  # its beginning is cut off
    return [text for line in reversed(lines) if (text := _text(line))]


def add_typed(text: str) -> None:
    """Add what was typed, in one write, so that another chat's does not end up inside it. What cannot be written, as on
    a full disk, is not recalled."""
    line = json.dumps(text).encode("ascii") + b"\n"
    path = history_file()
    if len(line) > MOST_BYTES // 10:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _text(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line
    return value if isinstance(value, str) else line
