"""One launch of one shader as a record, and what the makers of such records share. Knows no shader.

A dispatch is made from shapes and dtypes alone. They hardly ever change, so each one is made once and kept: Python is
slow beside a GPU.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from metal_kernels.source import TemplateValue

FOLDER = Path(__file__).resolve().parent.parent
"""Where the shader files are."""
FEW_ROWS = 8
"""The most rows that the shaders of a decode step take. For more, no dispatch of them is built."""
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


class ArraySpec(NamedTuple):
    """The part of an array that decides a dispatch."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


class Dispatch(NamedTuple):
    """One launch of one shader, as ``mx.fast.metal_kernel`` takes it."""

    shader: str
    template: tuple[tuple[str, TemplateValue], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[mx.Dtype, ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    inputs: tuple[mx.array, ...] = ()


def dispatch(
    shader: str,
    types: dict[str, mx.Dtype],
    numbers: dict[str, int],
    outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int],
) -> Dispatch:
    """Return a dispatch without inputs.

    ``types`` and ``numbers`` are the values of the template, ``outputs`` shapes and dtypes. ``grid`` counts threads,
    ``threadgroup`` those along x and y.
    """
    shapes, dtypes = zip(*outputs, strict=True)
    template: dict[str, TemplateValue] = {**{key: name(dtype) for key, dtype in types.items()}, **numbers}
    return Dispatch(shader, tuple(template.items()), shapes, dtypes, grid, (*threadgroup, 1))


def made_once(build: Callable[..., Dispatch | None]) -> Callable[..., Dispatch | None]:
    """Turn a builder that takes the specs of arrays into one that takes the arrays and builds once for equal specs."""
    cached = functools.lru_cache(64)(build)

    def of_arrays(arrays: tuple[mx.array, ...], *options: Any) -> Dispatch | None:
        made = cached(tuple(ArraySpec(array.shape, array.dtype) for array in arrays), *options)
        return made and made._replace(inputs=arrays)

    return of_arrays


def all_of(dtypes: Sequence[mx.Dtype], *arrays: ArraySpec) -> bool:
    """Return whether the dtype of each array is one of ``dtypes``."""
    return all(array.dtype in dtypes for array in arrays)


def bits(value: float) -> int:
    """Return a float32 as template integer.

    It is compiled in, because an argument would be a new array at every call.
    """
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def name(dtype: mx.Dtype) -> str:
    """Return a dtype's name as templates write it."""
    return str(dtype).removeprefix("mlx.core.")
