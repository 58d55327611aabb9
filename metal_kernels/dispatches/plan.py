"""What every launch is planned with. Knows no shader.

Plans are made from shapes and dtypes alone, which hardly ever change, so each is made once: Python is slow beside a
GPU.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from metal_kernels.source import TemplateValue

FOLDER = Path(__file__).resolve().parent.parent
FEW_ROWS = 8
"""Up to here a row reads weights for itself; beyond, rows share them, and no shader of ours is made for it."""
FLOATS = (mx.float32, mx.float16, mx.bfloat16)

Threads = Callable[[Mapping[str, Any]], tuple[int, int]]
"""Template values to threads along x, and threads of a threadgroup."""


class Dispatch(NamedTuple):
    """One launch of one shader, as ``mx.fast.metal_kernel`` takes it."""

    shader: str
    template: tuple[tuple[str, TemplateValue], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[mx.Dtype, ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    threads: Threads
    inputs: tuple[mx.array, ...] = ()

    def retiled(self, **template: int) -> "Dispatch":
        """The same work under other tile sizes. The grid follows."""
        values = dict(self.template) | template
        threads, width = self.threads(values)
        grid, threadgroup = (threads, *self.grid[1:]), (width, *self.threadgroup[1:])
        return self._replace(template=tuple(values.items()), grid=grid, threadgroup=threadgroup)


class Kind(NamedTuple):
    """What of an array decides a launch."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


def kind(array: mx.array) -> Kind:
    return Kind(array.shape, array.dtype)


def planned(
    shader: str,
    values: dict[str, TemplateValue],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[mx.Dtype, ...],
    threads: Threads,
    above: tuple[int, int],
    together: int = 1,
) -> Dispatch:
    """A dispatch without inputs. ``above``: threads along y and z, ``together``: of a threadgroup along y."""
    along, width = threads(values)
    return Dispatch(shader, tuple(values.items()), shapes, dtypes, (along, *above), (width, together, 1), threads)


def are(dtypes: Sequence[mx.Dtype], *kinds: Kind) -> bool:
    return all(kind.dtype in dtypes for kind in kinds)


def bits(value: float) -> int:
    """A float32 as template integer: compiled in, where an argument would be an array made anew at every call."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def name(dtype: mx.Dtype) -> str:
    """A dtype's name as templates have it."""
    return str(dtype).removeprefix("mlx.core.")
