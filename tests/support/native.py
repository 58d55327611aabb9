"""The native library of the CPU operations, for one architecture and a number of threads at a time."""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import mlx.core as mx
import numpy as np

from metal_kernels.cpu import build, library, operations
from metal_kernels.operands import Dense

WIDTH = 2880
ROWS = 64
_path = functools.cache(build.find)


@functools.cache
def architectures() -> tuple[str, ...]:
    """Return the architectures that the library is compiled for and this machine has. There are none without a
    library."""
    try:
        return tuple(library.architectures(ctypes.CDLL(str(_path()))))
    except build.Absent:
        return ()


@contextmanager
def using(architecture: str | None = None, threads: int | None = None) -> Iterator[None]:
    """Run operations on this architecture and so many threads, by default as a user's process does."""
    opened = library.open_library(_path(), architecture)
    opened.set_threads(threads or library.cores())
    with mock.patch.object(operations, "_library", return_value=opened):
        try:
            yield
        finally:
            opened.set_threads(library.cores())


@functools.cache
def _nan() -> tuple[mx.array, ...]:
    return tuple(mx.array(np.full(shape, np.nan, np.float32)) for shape in ((ROWS, WIDTH), (WIDTH,), (256, WIDTH)))


def spoil() -> None:
    """Fill the buffers that threads keep with NaN, so that an operation that reads what it has not written shows it."""
    x, norm, head = _nan()
    operations.norm_head(x, norm, 1e-5, Dense(head))
