"""An unfinished file on the disk: ``NAME.part`` with holes, and ``NAME.part.state``, which says what is there.

The file is divided into pieces, and each piece fills from its beginning. The state has one count for each piece. A
count is written after the bytes that it counts, each with one write, so a killed process loses at most the bytes that
it has read last, and none are counted that are not there. A power cut may lose counted bytes: the file's digest shows
it. Knows nothing of where bytes come from, or whether they are right.
"""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_mlx.errors import StorageError
from gptoss_mlx.files import opened_locked, storage_errors, sync, sync_folder

_HEADER = 1024
"""Bytes of the state before its counts: JSON, and spaces up to there."""

_COUNT = struct.Struct("<Q")


@dataclass
class Part:
    """An open unfinished file. ``counts[i]`` bytes of piece i are there, and ``etag`` is the server's name of the
    content that they are from. Methods raise StorageError where the disk fails."""

    target: Path
    size: int
    digest: str
    piece: int
    counts: list[int] = field(default_factory=list)
    etag: str | None = None
    _part: int = -1
    _state: int = -1
    _complete: int = 0  # pieces before this one are all there

    @property
    def path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def state_path(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.state")

    @property
    def nbytes(self) -> int:
        """How many bytes are there."""
        return sum(self.counts)

    def span(self, index: int) -> tuple[int, int]:
        """Return where the missing bytes of a piece begin, and where the piece ends."""
        start = index * self.piece
        return start + self.counts[index], min(start + self.piece, self.size)

    def contiguous(self) -> int:
        """Return how many bytes are there from the beginning of the file on, without a hole."""
        while self._complete < len(self.counts):
            begin, end = self.span(self._complete)
            if begin < end:
                return begin
            self._complete += 1
        return self.size

    def write(self, index: int, data: bytes) -> None:
        """Append bytes to a piece. Raises ValueError if they are more than are missing."""
        offset, end = self.span(index)
        if len(data) > end - offset:
            raise ValueError(f"piece {index}: {len(data)} bytes, {end - offset} are missing")
        with storage_errors(self.path):
            _write_at(self._part, data, offset)
            self.counts[index] += len(data)
            self._write_count(index)

    def read(self, offset: int, most: int) -> bytes:
        with storage_errors(self.path):
            return os.pread(self._part, most, offset)

    def restart(self) -> None:
        """Forget all bytes. The state goes first, because it must never count bytes that are not there."""
        with storage_errors(self.path):
            os.ftruncate(self._state, 0)
            os.ftruncate(self._part, 0)
            os.ftruncate(self._part, self.size)
            self.counts = [0] * -(-self.size // self.piece)
            self._complete, self.etag = 0, None
            _write_at(self._state, self._head() + _COUNT.pack(0) * len(self.counts), 0)

    def forget(self, index: int) -> None:
        """Forget the bytes of a piece that is not complete."""
        self.counts[index] = 0
        with storage_errors(self.path):
            self._write_count(index)

    def name_content(self, etag: str) -> None:
        """Remember which content the bytes are from. A name too long for the state is left out."""
        before, self.etag = self.etag, etag
        if len(self._head()) > _HEADER:
            self.etag = before
        with storage_errors(self.path):
            _write_at(self._state, self._head(), 0)

    def publish(self) -> None:
        """Sync the file, give it its own name and remove the state. A kill in between leaves a state, see ``tidy``."""
        with storage_errors(self.target):
            sync(self._part)
            os.rename(self.path, self.target)
            sync_folder(self.target.parent)
            self.state_path.unlink()

    def discard(self) -> None:
        """Remove both files."""
        for path in (self.state_path, self.path):
            with suppress(OSError):
                path.unlink()

    def _head(self) -> bytes:
        about = {"format": 1, "size": self.size, "digest": self.digest, "piece": self.piece, "etag": self.etag}
        return json.dumps(about).encode().ljust(_HEADER)

    def _write_count(self, index: int) -> None:
        _write_at(self._state, _COUNT.pack(self.counts[index]), _HEADER + index * _COUNT.size)

    def _resume(self) -> bool:
        """Read the state. Return False if it is another file's, is incomplete, or is not there."""
        count = -(-self.size // self.piece)
        with storage_errors(self.path):
            data = os.pread(self._state, _HEADER + count * _COUNT.size + 1, 0)
            if len(data) != _HEADER + count * _COUNT.size or os.fstat(self._part).st_size != self.size:
                return False
        try:
            about = json.loads(data[:_HEADER])
            etag = about["etag"]
        except (ValueError, KeyError, TypeError):
            return False
        if etag is not None and not isinstance(etag, str):
            return False
        self.etag, self.counts = etag, [number for (number,) in _COUNT.iter_unpack(data[_HEADER:])]
        fits = all(begin <= end for begin, end in map(self.span, range(count)))
        return fits and self._head() == data[:_HEADER]


@contextmanager
def unfinished(target: Path, size: int, digest: str, piece: int) -> Iterator[Part]:
    """Open the unfinished file beside ``target``, or begin it. ``piece`` is in bytes. The files stay when the context
    ends, unless there is nothing in them. Raises StorageError, also if another process has it open."""
    part = Part(target, size, digest, piece)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with storage_errors(part.path):
        part._part = _locked(part.path, flags)
    try:
        with storage_errors(part.state_path):
            part._state = os.open(part.state_path, flags, 0o644)
        try:
            if not part._resume():
                part.restart()
            yield part
        finally:
            os.close(part._state)
            if not any(part.counts) and part.size:
                part.discard()
    finally:
        os.close(part._part)


def tidy(target: Path) -> None:
    """Remove the state that a kill between the last two steps of ``publish`` leaves."""
    part = Part(target, 0, "", 1)
    if not part.path.exists():
        with storage_errors(part.state_path):
            part.state_path.unlink(missing_ok=True)


def _locked(path: Path, flags: int) -> int:
    """Open a file and lock it until it is closed. Raises StorageError if another process holds the lock."""
    try:
        while (descriptor := opened_locked(path, flags)) is None:
            pass
        return descriptor
    except BlockingIOError:
        raise StorageError(f"{path}: another process is downloading it; wait for it to end") from None


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    block = memoryview(data)
    while block:
        count = os.pwrite(descriptor, block, offset)
        block, offset = block[count:], offset + count
