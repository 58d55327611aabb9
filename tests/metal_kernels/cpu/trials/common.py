"""What every trial has: a call, what it should make, and sizes and arrays drawn for it. Knows no operation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from metal_kernels.operands import Dense, Experts
from tests.metal_kernels.shaders.common import exact

F32 = mx.float32
KINDS = ("float32", "bfloat16", "q8 beside float32", "q8 beside bfloat16")
ROWS = (1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 24, 25, 31, 33, 64)
MANY = (95, 96, 97, 130, 193, 511, 512, 513, 600)
COLUMNS = (32, 64, 96, 128, 192, 320, 736, 768, 800, 1536, 1568, 1600, 2880)


@dataclass(frozen=True)
class Made:
    """What an operation made, or should make. ``size`` is what errors are parts of: the largest value, or that which
    one of its values is expected to have, if chance has made all of them small."""

    values: np.ndarray
    size: float


@dataclass(frozen=True)
class Trial:
    """A call. ``native`` and ``plain`` make it in the library and in plain MLX, with matrices in float32."""

    about: str
    native: Callable[[], list[np.ndarray]]
    plain: Callable[[], list[np.ndarray]]
    want: list[Made]

    def error(self, got: list[np.ndarray]) -> float:
        """Return the largest error, as a part of the largest value. It is NaN if a value is."""
        assert [one.shape for one in got] == [made.values.shape for made in self.want]
        return max(float(np.abs(one - made.values).max()) / made.size for one, made in zip(got, self.want, strict=True))


class Draw:
    """Sizes and arrays of one trial."""

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def one_of(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def whole(self, first: int, last: int) -> int:
        return int(self.rng.integers(first, last + 1))

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def rows(self, columns: int) -> int:
        """Return a number of rows, and seldom one of hundreds."""
        return self.one_of(*MANY) if columns <= 128 and self.chance(0.15) else self.one_of(*ROWS)

    def near(self, *multiples: int, most: int) -> int:
        """Return a number at, just below or just above a multiple of one of these."""
        step = self.one_of(*multiples)
        return max(1, step * self.whole(1, max(1, most // step)) + self.whole(-1, 1))

    def normal(self, *shape: int, scale: float = 1.0) -> mx.array:
        return mx.array((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def matrix(self, rows: int, columns: int, kind: str, biased: bool = True) -> Dense:
        """Return a layer of this kind, seldom without a bias."""
        weight = self.normal(rows, columns, scale=columns**-0.5)
        bias = self.normal(rows, scale=0.5) if biased and not self.chance(0.2) else None
        if kind == "float32":
            return Dense(weight, bias)
        if kind == "bfloat16":
            return Dense(weight.astype(mx.bfloat16), bias)
        codes, *affine = mx.quantize(weight, group_size=64, bits=8)
        dtype = F32 if kind.endswith("float32") else mx.bfloat16
        return Dense(codes, bias, *(array.astype(dtype) for array in affine))

    def kind(self, columns: int) -> str:
        return self.one_of(*KINDS[: 2 if columns % 64 else 4])

    def mixture(self, slots: int, rows: int, columns: int) -> Experts:
        top = 130 - round(np.log2(columns) / 2)  # products to about 20, so that SwiGLU's clamps are met
        return Experts(
            mx.array(self.rng.integers(0, 1 << 32, (slots, rows, columns // 8), np.uint32)),
            mx.array(self.rng.integers(top - 10, top, (slots, rows, columns // 32), np.uint8)),
            self.normal(slots, rows, scale=0.5),
        )


def made(values: np.ndarray, expected: float = 0.0) -> Made:
    return Made(values, max(float(np.abs(values).max()), expected))


def results(out: mx.array | Sequence[mx.array] | None) -> list[np.ndarray]:
    assert out is not None, "not taken"
    return [exact(array) for array in ((out,) if isinstance(out, mx.array) else out)]
