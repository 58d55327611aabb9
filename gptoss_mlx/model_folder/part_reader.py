"""Read parts of a model folder's files into memory that the caller owns, several at a time, from files kept open.

Knows places and bytes; knows no tensors. How many reads are in flight follows the rate that this disk shows: a cold one
wants eight, the system's page cache two.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.fastest import Fastest
from gptoss_mlx.model_folder.reader import RECONVERT

DEPTHS = (2, 4, 8)
"""Reads in flight to choose from."""
MEASURED = 4 << 20
"""Bytes from which a call tells something about the disk. Smaller ones tell what a thread costs."""


@dataclass(frozen=True)
class Part:
    """``into`` is filled with the bytes of ``file`` from ``offset`` on."""

    file: Path
    offset: int
    into: memoryview


class PartReader:
    """The open files of a folder, and the threads that read them. One caller at a time."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Open ``files``. Raises ModelFolderError."""
        self.depth = Fastest(DEPTHS)
        self._files: dict[Path, FileIO] = {}
        self._threads = ThreadPoolExecutor(max(DEPTHS) - 1, "experts")
        self._flying: list[Future[None]] = []
        for file in files:
            try:
                self._files[file] = file.open("rb", buffering=0)
            except OSError as error:
                raise ModelFolderError(f"{file}: cannot be read ({error.strerror}); {RECONVERT}") from error

    def read(self, parts: Sequence[Part]) -> None:
        """Fill every part. Nothing is written any more when it returns or raises.

        Raises ModelFolderError, one line, for a file that has become shorter or cannot be read. Any of the parts may
        then hold anything.
        """
        wait(self._flying)  # of a call that was interrupted while it waited
        queue = deque(sorted(parts, key=lambda part: -len(part.into)))
        depth = self.depth.choose()
        start = time.perf_counter()
        try:
            self._flying = [self._threads.submit(self._drain, queue) for _ in range(min(depth, len(queue)) - 1)]
            self._drain(queue)
        finally:
            queue.clear()
            wait(self._flying)
        for flying in self._flying:
            flying.result()
        nbytes = sum(len(part.into) for part in parts)
        if nbytes >= MEASURED:
            self.depth.measured(depth, nbytes / (time.perf_counter() - start))

    def _drain(self, queue: deque[Part]) -> None:
        while True:
            try:
                part = queue.popleft()
            except IndexError:
                return
            self._read(part)

    def _read(self, part: Part) -> None:
        descriptor = self._files[part.file].fileno()
        rest = part.into
        offset = part.offset
        while rest:
            try:
                count = os.preadv(descriptor, [rest], offset)
            except OSError as error:
                raise ModelFolderError(
                    f"{part.file}: cannot be read ({error.strerror}); check the disk, or {RECONVERT}"
                ) from error
            if not count:
                raise ModelFolderError(f"{part.file}: truncated while it was read; {RECONVERT}")
            rest = rest[count:]
            offset += count
