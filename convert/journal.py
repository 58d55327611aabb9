"""What a download that is converted as it arrives has done so far: one line of JSON for each file of the source.

A line is written once everything that it tells is on the medium. A line that a kill or a power cut has left unfinished
is dropped. Knows nothing of what the lines tell.
"""

import json
import os
from pathlib import Path
from typing import Any

from gptoss_mlx.model_folder.writer import storage_errors, sync


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal, [] if there is none or if it is damaged before its last line."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    try:
        found = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return []
    return found if all(isinstance(line, dict) for line in found) else []


def write_line(path: Path, line: dict[str, Any]) -> None:
    """Append a line, on the medium when this returns. Cut off what follows the last whole line. Raises StorageError."""
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            data = b""
            while block := os.read(descriptor, 1 << 20):
                data += block
            end = data.rfind(b"\n") + 1
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            block = json.dumps(line).encode() + b"\n"
            while block:
                block = block[os.write(descriptor, block) :]
            sync(descriptor)
        finally:
            os.close(descriptor)
