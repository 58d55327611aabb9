"""The cache of compiled files. A file is named by a hash of its sources and is complete when it appears."""

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

EMULATOR = Path(__file__).resolve().parent
ABANDONED = 3600
"""Seconds after which an unfinished build was killed."""
STALE = 30 * 24 * 3600
"""Seconds without use after which a compiled kernel's source has probably changed."""


def folder() -> Path:
    """Return the folder of compiled kernels, one per user."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gptoss-mac" / "emulator"


@functools.cache
def _emulator_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(EMULATOR.rglob("*")):
        if path.suffix in (".h", ".cpp", ".py"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def place(suffix: str, *parts: object) -> Path:
    """Return the path of the file that these parts and the emulator's own source determine."""
    digest = hashlib.sha256("\0".join([_emulator_digest(), *map(str, parts)]).encode())
    return folder() / f"{digest.hexdigest()[:24]}{suffix}"


@contextmanager
def workshop() -> Iterator[Path]:
    """Yield a scratch folder on the cache's file system, from which files can be moved into the cache in one step."""
    folder().mkdir(parents=True, exist_ok=True)
    _prune()
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=folder()))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@functools.cache
def _prune() -> None:
    """Remove the folders of killed builds and stale files, once per process."""
    now = time.time()
    for path in folder().iterdir():
        with suppress(OSError):  # another process prunes too
            age = now - path.stat().st_mtime
            if path.is_dir() and age > ABANDONED:
                shutil.rmtree(path)
            elif path.is_file() and age > STALE:
                path.unlink()


def use(path: Path) -> bool:
    """Return whether the file exists. If so, mark it as used."""
    with suppress(OSError):
        os.utime(path)
        return True
    return False
