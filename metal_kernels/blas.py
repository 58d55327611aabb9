"""Finds a fast BLAS. Knows only that mlx must not be loaded yet."""

import ctypes
import sys


def preload_openblas() -> bool:
    """Load OpenBLAS into the global symbol table, so that libmlx binds its ``cblas_*`` to it.

    Returns whether one was found. Only Linux needs it, because macOS wheels use Accelerate.
    """
    if sys.platform != "linux":
        return False
    for name in ("libopenblas.so.0", "libopenblas.so"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False
