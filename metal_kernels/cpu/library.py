"""The native library as Python calls it: its structs, and a function for each operation of the best architecture here.

Knows how arguments are passed; knows no MLX operation. ``types.h`` holds the twins of the structs.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from ctypes import POINTER, c_float, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

from metal_kernels.cpu.build import Absent, find

ARCHITECTURES = ("portable", "avx2", "avx512")
"""What the library is compiled for, the best last: the bits of ``gptoss_cpu_architectures``."""
FORMATS = {"float32": 0, "bfloat16": 1, "q8": 2, "mxfp4": 3}


class Matrix(ctypes.Structure):
    """A matrix of ``format``, by addresses. ``wide`` is 1 where scales and offsets are float32 and 0 where bfloat16."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scales", "offsets", "bias")),
        *((name, c_int64) for name in ("rows", "columns", "format", "wide")),
    )


class Routing(ctypes.Structure):
    """The experts' choice for T rows: addresses of the logits [T, experts] and of each expert's slot."""

    _fields_ = (*((n, c_void_p) for n in ("logits", "slots")), *((n, c_int64) for n in ("T", "experts", "k")))


class Cache(ctypes.Structure):
    """One layer's cache of one sequence, by addresses."""

    _fields_ = (
        *((name, c_void_p) for name in ("body", "tail")),
        *((name, c_int64) for name in ("body_capacity", "tail_capacity", "body_rows", "tail_rows")),
    )


class Heads(ctypes.Structure):
    """One layer's attention."""

    _fields_ = (("sinks", c_void_p), *((n, c_int64) for n in ("N", "M", "D", "window")), ("scale", c_float))


STRIDES = c_int64 * 3
V = c_void_p
N = c_int64
M = POINTER(Matrix)
SIGNATURES: dict[str, tuple] = {
    "norm_qkv_rope": (V, V, c_float, M, V, V, N, N, N, V, V),
    "output_residual": (V, M, V, N, V),
    "norm_router": (V, V, c_float, M, N, V, V),
    "expert_gate_up": (V, POINTER(Routing), M, c_float, V),
    "expert_down_residual": (V, POINTER(Routing), M, V, V),
    "expert_mlp_grouped": (V, POINTER(Routing), M, M, c_float, V, V),
    "expert_pass": (V, POINTER(Routing), M, M, c_float, V),
    "expert_combine": (V, POINTER(Routing), N, V, V),
    "norm_head": (V, V, c_float, M, N, V),
    "norm_head_argmax": (V, V, c_float, M, N, V, V),
    "embed": (V, M, N, V),
    "rope_tables": (V, V, N, N, V, V),
    "prefill_attention": (*(V, STRIDES) * 3, POINTER(Heads), N, N, N, V),
    "decode_attention": (V, V, POINTER(Cache), POINTER(Heads), N, N, V),
}


@dataclass(frozen=True)
class Library:
    """The loaded library: the functions of one architecture, which return 0, 1 without memory, or 2 for a bad index.
    ``zeros_in_large_pages`` takes an address and a
    count of bytes that are zero."""

    architecture: str
    functions: dict[str, Callable[..., int]]
    set_threads: Callable[[int], None]
    zeros_in_large_pages: Callable[[int, int], None]

    def call(self, name: str, *arguments: object) -> None:
        """Call an operation. Raises MemoryError, and IndexError for an id outside a table."""
        if failed := self.functions[name](*arguments):
            raise MemoryError(f"no memory for {name}") if failed == 1 else IndexError(f"{name} was given a bad id")


def open_library(path: Path, architecture: str | None = None) -> Library:
    """Load the library at ``path`` with all cores at work, for ``architecture`` (default: the best of this machine).
    Raises OSError."""
    loaded = ctypes.CDLL(str(path))
    best = architectures(loaded)[-1]
    chosen = architecture or best
    functions: dict[str, Callable[..., int]] = {}
    for name, signature in SIGNATURES.items():
        function = getattr(loaded, f"{chosen}_{name}")
        function.argtypes = signature
        functions[name] = function
    loaded.gptoss_cpu_threads(cores())
    loaded.gptoss_cpu_zeros_in_large_pages.argtypes = (c_void_p, c_size_t)
    return Library(chosen, functions, loaded.gptoss_cpu_threads, loaded.gptoss_cpu_zeros_in_large_pages)


def architectures(loaded: ctypes.CDLL) -> list[str]:
    """Return the architectures of the library that this machine has, the best last."""
    bits = loaded.gptoss_cpu_architectures()
    return [name for bit, name in enumerate(ARCHITECTURES) if bits >> bit & 1]


@functools.cache
def library() -> Library | None:
    """Return the library this process uses, or None where there is none. ``build.find`` says why."""
    try:
        return open_library(find())
    except (Absent, OSError):
        return None


def cores() -> int:
    """Return the cores this process may use: those of its affinity mask, or what its control group's quota makes."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or no quota ("max")
        return count
