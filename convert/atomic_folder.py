"""Create a folder atomically: it appears complete or not at all. Does not know what is in it.

The folder is written under a hidden name beside its destination and renamed at the end. A killed process leaves at most
the hidden folder, which the next run for the same destination empties or, if it is a download, goes on with. A lock on
it shows whether its process is alive.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convert.journal import JOURNAL, read_journal
from gptoss_mlx.errors import StorageError
from gptoss_mlx.files import opened_locked, storage_errors, sync_folder
from gptoss_mlx.home import DOWNLOAD, hidden_folder, models_dir


@contextmanager
def atomic_folder(destination: Path, needed: int) -> Iterator[Path]:
    """Yield an empty folder. On success rename it to ``destination``; on any exception remove it.

    Raises StorageError when the destination exists, when fewer than ``needed`` bytes are free, when another process is
    writing the same destination, when an unfinished download is kept for it, or when a folder cannot be made.
    """
    destination = Path(os.path.abspath(destination))
    check_absent(destination)
    partial = hidden_folder(destination)
    made: list[Path] = []
    lock = None
    try:
        with storage_errors(destination.parent):
            _make_parents(destination.parent, made)
            lock = _lock(partial, destination)
        if (partial / DOWNLOAD).exists():
            os.close(lock)
            lock = None
            raise StorageError(f"{destination}: its download is unfinished; {_remedies(destination)}, or use --out")
        with storage_errors(destination.parent):
            _empty(partial)
            check_space(destination, needed)
        yield partial
        check_absent(destination)
        with storage_errors(destination):
            sync_folder(partial)
            os.rename(partial, destination)
            sync_folder(destination.parent)
    except BaseException:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in reversed(made):
            with suppress(OSError):  # another process may have put something in it
                folder.rmdir()
        raise
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def resumable_folder(destination: Path) -> Iterator[Path]:
    """Yield the hidden folder with what an earlier process has left there. On success rename it to ``destination``.
    After an exception it stays, unless it is empty.

    Raises StorageError as ``atomic_folder`` does.
    """
    destination = Path(os.path.abspath(destination))
    check_absent(destination)
    partial = hidden_folder(destination)
    with storage_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(partial, destination)
    try:
        yield partial
        check_absent(destination)
        with storage_errors(destination):
            sync_folder(partial)
            os.rename(partial, destination)
            sync_folder(destination.parent)
    finally:
        with suppress(OSError):  # it is not empty, or it has been renamed
            partial.rmdir()
        os.close(lock)


def _remedies(destination: Path) -> str:
    """Return in words how an unfinished download is gone on with or discarded."""
    partial = hidden_folder(destination)
    journal = read_journal(partial / DOWNLOAD / JOURNAL)
    installed = destination.parent == Path(os.path.abspath(models_dir()))
    discard = f"with `gptoss-mac models rm {destination.name}`" if installed else f"by removing {partial}"
    return (
        f"go on with `{journal[0].command(destination)}`, discard it {discard}" if journal else f"discard it {discard}"
    )


def check_absent(destination: Path) -> None:
    """Raise StorageError when something is at ``destination``, or when it cannot be a path."""
    try:
        os.lstat(destination)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise StorageError(f"{destination}: is no path a file can have; choose another place with --out") from error
    except OSError:
        return  # it is absent, or making it will raise the error
    raise StorageError(f"{destination}: exists already; remove it or choose another place with --out")


def check_space(destination: Path, needed: int) -> None:
    """Raise StorageError when fewer than ``needed`` bytes are free where ``destination`` will be."""
    free = shutil.disk_usage(destination.parent).free
    if free < needed:
        raise StorageError(
            f"{destination}: needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; free some space or use --out"
        )


def _make_parents(folder: Path, made: list[Path]) -> None:
    """Make the missing folders of a path, outermost first. Append each to ``made``, even if a later one fails."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def _lock(partial: Path, destination: Path) -> int:
    """Make the hidden folder or take over a dead process's. Return its descriptor, locked until this process ends."""
    try:
        while True:
            partial.mkdir(exist_ok=True)
            folder = opened_locked(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if folder is not None:
                return folder
    except BlockingIOError:
        raise StorageError(f"{destination}: another process is converting to it; wait for it to end") from None


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
