"""What a download that is converted as it arrives has done so far: one line of JSON for each file of the source.

The first line is the head: what is downloaded, and with which options. A line is written once everything that it tells
is on the medium. A line that a kill or a power cut has left unfinished is dropped.
"""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.files import storage_errors, sync
from gptoss_mlx.home import models_dir, name_for_hub_id
from gptoss_mlx.published import published_name

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Head:
    """A repository at a commit, the type of the dense weights, and the version that downloads it. The source's files
    are kept in the folder ``keep`` unless it is None."""

    repo: str
    commit: str
    dense: str
    tool: str
    keep: str | None

    def command(self, destination: Path) -> str:
        """Return the command that makes ``destination``, or goes on with it."""
        words = ["gptoss-mac", "convert", published_name(self.repo) or self.repo]
        words += ["--dense", self.dense] if self.dense != "q8" else []
        words += ["--keep-source"] if self.keep else []
        destination = Path(os.path.abspath(destination))
        if destination != Path(os.path.abspath(models_dir() / name_for_hub_id(self.repo))):
            words += ["--out", str(destination)]
        return shlex.join(words)


@dataclass(frozen=True)
class Line:
    """A file of the source that has been converted. ``pieces`` has, for the key of each piece that it completed, the
    sha256 of tensors; ``sources`` the sha256 of source tensors; ``tally`` what was counted on the way."""

    file: str
    pieces: dict[str, dict[str, str]]
    sources: dict[str, str]
    tally: dict[str, float]


def read_journal(path: Path) -> tuple[Head, list[Line]] | None:
    """Return what a journal tells, None if there is none or if it is damaged before its last line."""
    try:
        head, *lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return _head(head), [_line(line) for line in lines]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def write_line(path: Path, line: Head | Line) -> None:
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
            block = json.dumps(asdict(line)).encode() + b"\n"
            while block:
                block = block[os.write(descriptor, block) :]
            sync(descriptor)
        finally:
            os.close(descriptor)


def _head(raw: Any) -> Head:
    head = Head(**raw)
    if not all(isinstance(value, str) for value in (head.repo, head.commit, head.dense, head.tool, head.keep or "")):
        raise ValueError("a head with other types")
    return head


def _line(raw: Any) -> Line:
    line = Line(**raw)
    maps = [line.sources, *line.pieces.values()] if isinstance(line.pieces, dict) else [None]
    texts = isinstance(line.file, str) and all(_is_map(found, str) for found in maps)
    if not texts or not _is_map(line.tally, int | float):
        raise ValueError("a line with other types")
    return line


def _is_map(found: Any, kind: Any) -> bool:
    return isinstance(found, Mapping) and all(isinstance(value, kind) for value in found.values())
