"""What the checks of every family of shaders are made of: running a dispatch, errors, the same in every order."""

import re
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import Report, metal_kernel
from metal_kernels.source import MetalSource

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
EPS = 1e-5
# Largest error of one output, as a part of the largest value.
FLOAT32_ERROR = 2e-6
ROUNDING = {F32: FLOAT32_ERROR, F16: 2.0**-11 + 2e-6, BF16: 2.0**-8 + 2e-6, mx.uint32: 0.0}


def exact(array: mx.array) -> np.ndarray:
    """An mlx array's values in float64."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array).astype(np.float64)


def shader_files(shader: str) -> list[str]:
    """What a shader is made of: its own file and what it includes."""
    return re.findall(r'^#line 1 "(.+)"$', MetalSource.read(dispatches.FOLDER / f"{shader}.metal").header, re.M)


def run(made: Dispatch, folder: Path = dispatches.FOLDER, **options) -> tuple[list[mx.array], Report]:
    """Run one dispatch with the shader in ``folder``. Options are the emulator's."""
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


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference, as a part of the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())


@dataclass(frozen=True, order=True)
class Error:
    """As parts of the largest value."""

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


def check_in_every_order(
    made: Dispatch,
    want: Sequence[np.ndarray],
    natural: Callable[[list[mx.array]], Sequence[np.ndarray]],
    folder: Path = dispatches.FOLDER,
) -> Report:
    """Right to rounding, and clean in check mode, and bit-equal in three orders of threads and threadgroups.

    ``natural`` brings the outputs into the order and float64 of ``want``.
    """
    out, report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    for got, wanted, dtype in zip(natural(out), want, made.output_dtypes, strict=True):
        assert np.isfinite(got).all()
        assert error(got, wanted) <= ROUNDING[dtype], (error(got, wanted), dtype)
    for order in ("reversed", "shuffled"):
        again, report_again = run(made, folder, mode="check", order=order)
        assert not report_again.findings, str(report_again)
        assert all(mx.array_equal(a, b) for a, b in zip(out, again, strict=True)), order
    return report


def check_tiling(made: Dispatch, tilings: Sequence[dict[str, int]], folder: Path = dispatches.FOLDER) -> None:
    """The same bits however the work is divided."""
    out, _ = run(made, folder, mode="fast")
    for tiling in tilings:
        again, _ = run(made.retiled(**tiling), folder, mode="fast")
        assert all(mx.array_equal(a, b) for a, b in zip(out, again, strict=True)), tiling
