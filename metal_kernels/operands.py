"""What operations take beside arrays: a layer's weights, a cache to read, and rows in the order of experts' inputs.

Shapes as in ``reference``. Computes nothing but casts and reorderings.
"""

from typing import NamedTuple

import mlx.core as mx


class Dense(NamedTuple):
    """A linear layer: ``weight`` [R, C] of a float type and ``bias`` [R] or None.

    In 8 bits, ``weight`` is [R, C / 4] uint32, four codes to a word. A value is code * scale + offset, with ``scales``
    and ``offsets`` [R, C / 64].
    """

    weight: mx.array
    bias: mx.array | None = None
    scales: mx.array | None = None
    offsets: mx.array | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype its products run in: that of the bias, if there is one, for other arrays may be as stored."""
        own = self.bias if self.bias is not None else self.weight if self.scales is None else self.scales
        return own.dtype


class Experts(NamedTuple):
    """One projection of all experts in MXFP4: ``weight`` [S, R, C / 8] uint32, ``scales`` [S, R, C / 32] uint8 and
    ``bias`` [S, R]. S counts slots. A table tells the slot of each expert, and has -1 for one that is absent."""

    weight: mx.array
    scales: mx.array
    bias: mx.array

    @property
    def input_dtype(self) -> mx.Dtype:
        """The dtype its input rows have."""
        return input_dtype(self.bias.dtype)


class Pass(NamedTuple):
    """Some of the experts that rows choose: ``slots`` [E] int32 holds their slots, and -1 for all others. ``pairs`` is
    how many choices of all rows they are."""

    slots: mx.array
    pairs: int


class Attention(NamedTuple):
    """One layer's attention: ``sinks`` [N], the scale of its scores, and its window in positions, None for no limit."""

    sinks: mx.array
    scale: float
    window: int | None


class CacheView(NamedTuple):
    """One layer's cache of one sequence as decode attention reads it.

    ``body`` is [2, 1, M, capacity, D] and ``tail`` [2, 1, M, R, D]: keys, then values. ``counts`` [2] int32 are the
    rows that hold positions in each of the two, and ``keys`` is their sum. Rows past these counts may hold anything.
    """

    body: mx.array
    tail: mx.array
    counts: mx.array
    keys: int


def input_dtype(bias: mx.Dtype) -> mx.Dtype:
    """Return the dtype of the rows experts take, by that of their biases.

    Beside 16-bit biases it is half, because bfloat16 would keep 8 of its 11 bits.
    """
    return mx.float32 if bias == mx.float32 else mx.float16


def chunk_major(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return rows x [..., H] in ``dtype`` and the order experts take them in, [..., C, H / 32, W].

    A chunk is 16 bytes: W values, C chunks to a group of 32. The shaders' lanes take a group each, so neighbouring
    lanes read neighbouring chunks.
    """
    width = 16 // dtype.size
    return narrowed(x, dtype).reshape(*x.shape[:-1], -1, 32 // width, width).swapaxes(-3, -2)


def narrowed(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return x in ``dtype``, clipped to 65504 where that is half."""
    return (mx.clip(x, -65504, 65504) if dtype == mx.float16 else x).astype(dtype)


def natural(x: mx.array) -> mx.array:
    """Undo :func:`chunk_major`: [..., C, H / 32, W] to [..., H]."""
    return x.swapaxes(-3, -2).flatten(-3)
