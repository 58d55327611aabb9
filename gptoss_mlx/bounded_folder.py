"""A folder that several processes share and that never holds more than so many bytes of files. Knows no content.

The files used longest ago go first. All state is in the folder: sizes, and times of use as modification times. So a
process that is killed leaves nothing to repair. Writers take turns by a lock. Readers take none, because a file appears
whole and never changes. Each file ends in a digest of its name and of all that it holds.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.files import lock, write_all

DIGEST_BYTES = 32
"""Bytes of the SHA-256 at a file's end. It replaces syncing: what a power cut tears is found when it is read."""

LOCK = ".lock"

PARTIAL = ".partial"
"""The file that is being written. There is one, because only the holder of the lock writes. The next one replaces what
a killed process left."""

PATIENCE = 5.0
"""Seconds to wait for the lock. A process holds it for one file at a time, unless it is stopped."""


@dataclass(frozen=True)
class BoundedFolder:
    """At most ``budget`` bytes of files in ``path``, which is made when the first is written. Only the user can read
    it."""

    path: Path
    budget: int

    def names(self) -> set[str]:
        """Return the names of the files there are."""
        try:
            return {name for name in os.listdir(self.path) if not name.startswith(".")}
        except OSError:
            return set()

    def read(self, name: str) -> memoryview | None:
        """Return what a file holds, or None if it is missing, damaged or cannot be read. A damaged one is removed."""
        try:
            data = (self.path / name).read_bytes()
        except OSError:
            return None
        content = memoryview(data)[:-DIGEST_BYTES]
        if _digest(name, [content]) != data[-DIGEST_BYTES:]:
            with suppress(OSError):
                (self.path / name).unlink()
            return None
        return content

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        """Write a file, or replace it whole, and remove others first to make room. Nothing happens if it is larger than
        the budget. Raises OSError, also if the lock is held too long; the folder is then as before."""
        size = sum(part.nbytes for part in parts) + DIGEST_BYTES
        if size > self.budget:
            return
        digest = _digest(name, parts)
        with self._locked():
            self._make_room(size)
            partial = self.path / PARTIAL
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(partial, flags, 0o600), "wb", buffering=0) as file:
                    for part in (*parts, memoryview(digest)):
                        write_all(file.fileno(), part.cast("B"))
                os.replace(partial, self.path / name)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise

    def touch(self, names: Iterable[str]) -> None:
        """Count files as used now, the first of ``names`` as used longest ago. Files that are missing are left out."""
        now = time.time_ns()
        for number, name in enumerate(names):
            with suppress(OSError):
                os.utime(self.path / name, ns=(now + number, now + number))

    def _make_room(self, size: int) -> None:
        """Remove the files used longest ago until ``size`` bytes more fit. The lock is held."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_mtime_ns, entry.name, about.st_size))
        held = sum(nbytes for _, _, nbytes in found)
        for _, name, nbytes in sorted(found):
            if held + size <= self.budget:
                return
            (self.path / name).unlink(missing_ok=True)
            held -= nbytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + PATIENCE
        with open(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as file:
            while True:
                try:
                    lock(file.fileno())
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
            yield


def _digest(name: str, parts: Iterable[memoryview]) -> bytes:
    digest = hashlib.sha256(name.encode())
    for part in parts:
        digest.update(part)
    return digest.digest()
