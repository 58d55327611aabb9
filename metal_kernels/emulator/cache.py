"""Compiled files, kept: named by a hash of what they came from, and made whole before they appear."""

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
# Seconds after which an unfinished build is nobody's, and a compiled kernel is likely of a source that has changed
# since.
ABANDONED, STALE = 3600, 30 * 24 * 3600


def folder() -> Path:
    """Where compiled kernels are kept, per user."""
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
    """The file for what these parts, and the emulator itself, determine."""
    digest = hashlib.sha256("\0".join([_emulator_digest(), *map(str, parts)]).encode())
    return folder() / f"{digest.hexdigest()[:24]}{suffix}"


@contextmanager
def workshop() -> Iterator[Path]:
    """A scratch folder on the cache's file system: what is made there can be moved into the cache in one step."""
    folder().mkdir(parents=True, exist_ok=True)
    _prune()
    scratch = Path(tempfile.mkdtemp(prefix="building-", dir=folder()))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@functools.cache
def _prune() -> None:
    """Once per process, remove what a killed build left and what nobody has used for long."""
    now = time.time()
    for path in folder().iterdir():
        with suppress(OSError):  # another process prunes too
            age = now - path.stat().st_mtime
            if path.is_dir() and age > ABANDONED:
                shutil.rmtree(path)
            elif path.is_file() and age > STALE:
                path.unlink()


def use(path: Path) -> bool:
    """Whether the file exists; marks it as used if so."""
    with suppress(OSError):
        os.utime(path)
        return True
    return False
