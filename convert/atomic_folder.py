"""A folder that appears whole or not at all. Knows nothing of what is in it.

It is written under a hidden name beside its place and renamed at the end. A process that is killed leaves at most that
hidden folder, which the next run for the same place removes; a lock on it tells a dead run from a live one.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gptoss_mlx.errors import StorageError
from gptoss_mlx.model_folder.writer import storage_errors, sync_folder


@contextmanager
def atomic_folder(destination: Path, needed: int) -> Iterator[Path]:
    """Give an empty folder to fill; on success it becomes ``destination``, on any exception nothing is left.

    ``needed`` bytes must be free. Raises StorageError when the destination exists, when there is no room, when another
    process is writing it, or when a name cannot be made.
    """
    destination = Path(os.path.abspath(destination))
    _check_absent(destination)
    partial = destination.with_name(f".{destination.name}.partial")
    made: list[Path] = []
    lock = None
    try:
        with storage_errors(destination.parent):
            _make_parents(destination.parent, made)
            lock = _lock(partial, destination)
            _empty(partial)
            _check_space(destination, needed)
        yield partial
        _check_absent(destination)
        with storage_errors(destination):
            sync_folder(partial)
            os.rename(partial, destination)
            sync_folder(destination.parent)
    except BaseException:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in reversed(made):
            with suppress(OSError):  # something else is in it by now
                folder.rmdir()
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _check_absent(destination: Path) -> None:
    try:
        os.lstat(destination)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise StorageError(f"{destination}: is no path a file can have; choose another place with --out") from error
    except OSError:
        return  # absent, or what keeps it from being made will say so
    raise StorageError(f"{destination}: exists already; remove it or choose another place with --out")


def _check_space(destination: Path, needed: int) -> None:
    free = shutil.disk_usage(destination.parent).free
    if free < needed:
        raise StorageError(
            f"{destination}: needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; free some space or use --out"
        )


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make what is missing of a path, outermost first; ``made`` lists it, also when one fails."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def _lock(partial: Path, destination: Path) -> int:
    """Make the hidden folder, or take over a dead run's. The open, locked folder; the lock ends with the process."""
    while True:
        partial.mkdir(exist_ok=True)
        folder = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if partial.exists() and os.path.samestat(os.fstat(folder), partial.stat()):
                return folder
        except BlockingIOError:
            os.close(folder)
            raise StorageError(f"{destination}: another process is converting to it; wait for it to end") from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK):
                os.close(folder)
                raise
            return folder  # some network volumes have no locks; then two runs are not told apart
        os.close(folder)  # renamed or removed by its owner in between


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
