"""Runs dispatches with the shaders of a folder, and measures errors. Knows no shader."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import Report, metal_kernel
from metal_kernels.source import MetalSource

F32 = mx.float32
F16 = mx.float16
BF16 = mx.bfloat16
EPS = 1e-5
FLOAT32_ERROR = 2e-6
"""The largest error of a float32 output, as a part of the largest value."""

ROUNDING = {F32: FLOAT32_ERROR, F16: 2.0**-11 + 2e-6, BF16: 2.0**-8 + 2e-6, mx.uint32: 0.0}
"""The same by dtype: half a unit in the last place, and the error before rounding."""


def exact(array: mx.array) -> np.ndarray:
    """Return an mlx array's values in float64."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array).astype(np.float64)


def shader_files(shader: str) -> list[str]:
    """Return the files of a shader: its own and those it includes."""
    return re.findall(r'^#line 1 "(.+)"$', MetalSource.read(dispatches.FOLDER / f"{shader}.metal").header, re.M)


def run(made: Dispatch, folder: Path = dispatches.FOLDER, **options) -> tuple[list[mx.array], Report]:
    """Run one dispatch with the shader in ``folder``. Return outputs and report. Options are the emulator's."""
    source = MetalSource.read(folder / f"{made.shader}.metal")
    kernel = metal_kernel(**source.arguments())
    return kernel(
        inputs=made.inputs,
        output_shapes=made.output_shapes,
        output_dtypes=made.output_dtypes,
        grid=made.grid,
        threadgroup=made.threadgroup,
        template=made.template,
        **options,
    )


def in_range(want: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """Return what an operation stores of these values: half's largest value in place of larger ones."""
    return np.clip(want, -65504, 65504) if dtype == F16 else want


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference, as a part of the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())


@dataclass(frozen=True, order=True)
class Error:
    """Two errors, as parts of the largest value."""

    largest: float
    root_mean_square: float

    @classmethod
    def of(cls, got: np.ndarray, want: np.ndarray) -> "Error":
        return cls(error(got, want), float(np.sqrt(((got - want) ** 2).mean()) / np.abs(want).max()))

    @classmethod
    def mean(cls, errors: Sequence["Error"]) -> "Error":
        return cls(*(float(np.mean(part)) for part in zip(*map(astuple, errors), strict=True)))

    def __str__(self) -> str:
        return f"{self.largest:.1e}, {self.root_mean_square:.1e}"


TILED = {"expert_gate_up": 2, "expert_down_residual": 1}
"""The axis of the grid that counts a shader's threadgroups along the matrix. For others it is the first, which counts
threads."""


def retiled(made: Dispatch, **template: int) -> Dispatch:
    """Return the same work under other tile sizes. The grid follows.

    PAIRS, or of the experts ROWS, divide the grid; SIMDGROUPS sets the width of a threadgroup.
    norm_head_argmax_combine is always one threadgroup.
    """
    was = dict(made.template)
    new = was | template
    grid = list(made.grid)
    width, *others = made.threadgroup
    if "SIMDGROUPS" in template:
        width = width * new["SIMDGROUPS"] // was["SIMDGROUPS"]
    if made.shader in TILED:
        of = TILED[made.shader]
        grid[0] = grid[0] // made.threadgroup[0] * width
        before, now = (values["ROWS"] * values.get("SIMDGROUPS", 1) for values in (was, new))
        grid[of] = grid[of] * before // now
    elif made.shader == "norm_head_argmax_combine":
        grid[0] = width
    elif "PAIRS" in template:
        grid[0] = grid[0] * was["PAIRS"] // new["PAIRS"]
    return made._replace(template=tuple(new.items()), grid=tuple(grid), threadgroup=(width, *others))


def same(outputs: Sequence[mx.array], others: Sequence[mx.array]) -> bool:
    """Return whether two lists of arrays have the same bits."""
    return all(mx.array_equal(one, other) for one, other in zip(outputs, others, strict=True))
