"""The cache of compiled files, in a folder per kind. A file is named by a hash of all that determines it, and is
complete when it appears. Knows no compiler."""

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED = 3600
"""Seconds after which an unfinished build was killed."""
STALE = 30 * 24 * 3600
"""Seconds without use after which a compiled file's source has probably changed."""


def folder(kind: str) -> Path:
    """Return the folder of compiled files of this kind, one per user."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gptoss-mac" / kind


def digest(sources: Path) -> str:
    """Return a hash of the names and bytes of all files under a folder, apart from Python's bytecode."""
    whole = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            whole.update(str(path.relative_to(sources)).encode() + path.read_bytes())
    return whole.hexdigest()


def place(kind: str, suffix: str, *parts: object) -> Path:
    """Return the path of the file that these parts determine."""
    name = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]
    return folder(kind) / f"{name}{suffix}"


@contextmanager
def workshop(kind: str) -> Iterator[Path]:
    """Yield a scratch folder on the cache's file system, from which files can be moved into the cache in one step.

    Raises OSError if the cache cannot be written.
    """
    whole = folder(kind)
    whole.mkdir(parents=True, exist_ok=True)
    prune(whole)
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=whole))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@functools.cache
def prune(whole: Path) -> None:
    """Remove the folders of killed builds and stale files, once per process and folder."""
    now = time.time()
    for path in whole.iterdir():
        with suppress(OSError):  # another process prunes too
            age = now - path.stat().st_mtime
            if path.is_dir() and age > ABANDONED:
                shutil.rmtree(path)
            elif path.is_file() and age > STALE:
                path.unlink()


def use(path: Path) -> bool:
    """Return whether the file exists. If so, mark it as used, where the cache can be written."""
    with suppress(OSError):
        os.utime(path)
    return path.is_file()
