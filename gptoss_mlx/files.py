"""Writing files so that a crash leaves none by half, locking them, and the room they take. Knows nothing of their
content."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gptoss_mlx.errors import StorageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a volume that has no room."""


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to. Afterwards sync the file and move it to ``path``, or remove it after an error. It lies
    in a new folder beside ``path``, where no other process writes. Only the user can read it. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent))
    try:
        partial = folder / path.name
        yield partial
        os.chmod(partial, 0o600)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_place(path: Path) -> None:
    """Raise StorageError where it is plain before any work that no file can be written at ``path``. Folders that are
    missing could be made."""
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if path.is_dir():
        problem = "it is a folder"
    elif not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = f"{folder} is no folder that you may write to"
    else:
        return
    raise StorageError(f"{path}: cannot be written ({problem}); choose another place")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise an OSError of the context as a StorageError with a remedy, in one line."""
    try:
        yield
    except OSError as error:
        remedy = "free some space and try again" if error.errno in FULL else "choose another place"
        raise StorageError(f"{error.filename or path}: cannot be written ({error.strerror}); {remedy}") from error


def sync(fd: int) -> None:
    """Wait until a file's bytes are on the medium. macOS needs F_FULLFSYNC: its fsync stops at the drive's cache."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is None:
        os.fsync(fd)
        return
    try:
        fcntl.fcntl(fd, full_sync)
    except OSError:  # network volumes do not support it
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's file names are on the medium."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, which a system call may not do at once."""
    block = memoryview(data)
    while block:
        block = block[os.write(fd, block) :]


def lock(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file or folder until it is closed. Raises BlockingIOError if another process holds the lock, unless
    it shall ``wait``, and OSError. Some network volumes have no locks: two processes are not detected there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOLCK):
            raise


def opened_locked(path: Path, flags: int) -> int | None:
    """Open a file or folder and lock it. Return None if its owner has moved or removed it meanwhile: try again then.
    Raises BlockingIOError if another process holds the lock, and OSError."""
    descriptor = os.open(path, flags, 0o644)
    try:
        lock(descriptor)
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def nbytes_in(folder: Path) -> int:
    """Return the sizes of a folder's own files, added up. Raises OSError."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def nbytes_on_disk(*folders: Path) -> int:
    """Return the bytes that the files in and below folders take. Files with holes take fewer than their size, and those
    that another process removes meanwhile take nothing."""
    paths = {os.path.join(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names}
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += os.lstat(path).st_blocks * 512
    return total
