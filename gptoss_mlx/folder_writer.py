"""A thread that writes files into a bounded folder, so that nobody waits for the disk. Knows no content.

After a failed write nothing more is written, and ``notice`` says so once.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gptoss_mlx.bounded_folder import PATIENCE, BoundedFolder
from gptoss_mlx.errors import one_line


@dataclass
class FolderWriter:
    """At most ``most`` files wait to be written to ``folder``, in memory. ``waiting`` are their names."""

    folder: BoundedFolder
    most: int
    waiting: set[str] = field(default_factory=set, init=False)
    failure: str | None = field(default=None, init=False)
    _told: bool = field(default=False, init=False)
    # Python joins the thread of an executor at exit, so what waits is written then.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "writer"), init=False)

    def __post_init__(self) -> None:
        self._room = threading.Semaphore(self.most)

    @property
    def full(self) -> bool:
        """Return whether another file would have to wait for one of those that wait."""
        return len(self.waiting) >= self.most

    def put(self, name: str, copied: Callable[[], list[memoryview]], *, wait: bool) -> bool:
        """Take a file over, of the parts that ``copied`` returns. Where there is no room for them ``wait`` for some, or
        else return False. Return False too where writing has failed, or copying does."""
        if not self._room.acquire(timeout=2 * PATIENCE if wait else 0):
            if wait:
                self._fail("the disk does not answer")
            return False
        try:
            parts = copied()
        except (RuntimeError, MemoryError) as error:
            self._room.release()
            self._fail(one_line(error))
            return False
        self.waiting.add(name)
        self._thread.submit(self._write, name, parts)
        return True

    def touch(self, names: Iterable[str]) -> None:
        """Count files as used, behind those that wait."""
        self._thread.submit(self.folder.touch, names)

    def close(self) -> None:
        """Wait until all is written."""
        self._thread.submit(int).result()

    def notice(self) -> str | None:
        """Return, once, why nothing more is written, or None."""
        if self.failure is None or self._told:
            return None
        self._told = True
        return self.failure

    def _write(self, name: str, parts: list[memoryview]) -> None:
        try:
            if self.failure is None:
                self.folder.write(name, parts)
        except OSError as error:
            self._fail(error.strerror or "it cannot be written")
        finally:
            self.waiting.discard(name)
            self._room.release()

    def _fail(self, why: str) -> None:
        self.failure = f"{self.folder.path}: {why}; what was read is not kept on disk, and nothing else is lost"
