"""The emulator's files in the cache of compiled files. They depend on the emulator's own source, too."""

import functools
from contextlib import AbstractContextManager
from pathlib import Path

from metal_kernels import build_cache

KIND = "emulator"
"""The name of their folder."""


@functools.cache
def _own_digest() -> str:
    return build_cache.digest(Path(__file__).resolve().parent)


def place(suffix: str, *parts: object) -> Path:
    """Return the path of the file that these parts and the emulator's own source determine."""
    return build_cache.place(KIND, suffix, _own_digest(), *parts)


def workshop() -> AbstractContextManager[Path]:
    """Return :func:`build_cache.workshop` of the emulator's folder."""
    return build_cache.workshop(KIND)
