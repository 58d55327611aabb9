"""The launches around the grouped products of a prompt's rows, which are MLX's own."""

import math

import mlx.core as mx

from metal_kernels.dispatches.dispatch import FLOATS, ArraySpec, Dispatch, all_of, bits, dispatch, made_once
from metal_kernels.dispatches.experts import MAX_CHOICES
from metal_kernels.source import CONSTANT_BELOW

MOST_THREADS = 256
"""Threads to a threadgroup, or a few less, so that they divide a row."""
MOST_VALUES = 1 << 32
"""Values of an array that a shader's 32-bit positions reach."""


def grouped_swiglu(product: mx.array, slot: mx.array, bias: mx.array, limit: float) -> Dispatch | None:
    inputs = (product, slot, bias)
    return _grouped_swiglu(inputs, limit)


def grouped_sum(rows: mx.array, place: mx.array, weights: mx.array, residual: mx.array) -> Dispatch | None:
    inputs = (rows, place, weights, residual)
    return _grouped_sum(inputs)


@made_once
def _grouped_swiglu(inputs: tuple[ArraySpec, ...], limit: float) -> Dispatch | None:
    product, slot, bias = inputs
    rows, outputs = product.shape[0], product.shape[1] // 2
    if not (all_of(FLOATS, product, bias) and all_of((mx.int32,), slot)) or rows < CONSTANT_BELOW:
        return None
    if outputs % 4 or math.prod(product.shape) >= MOST_VALUES:
        return None
    types = {"T": product.dtype, "B": bias.dtype}
    numbers = {"OUTPUTS": outputs, "LIMIT_BITS": bits(limit)}
    activated = ((rows, outputs), product.dtype)
    return dispatch("grouped_swiglu", types, numbers, [activated], *_grid(outputs // 4, rows))


@made_once
def _grouped_sum(inputs: tuple[ArraySpec, ...]) -> Dispatch | None:
    grouped, place, weights, residual = inputs
    rows, columns = residual.shape
    k = place.shape[1]
    if not (all_of(FLOATS, grouped) and all_of((mx.uint32,), place) and all_of((mx.float32,), weights, residual)):
        return None
    if rows * k < CONSTANT_BELOW or not 0 < k <= MAX_CHOICES or columns % 8:
        return None
    if math.prod(grouped.shape) >= MOST_VALUES:
        return None
    out = ((rows, columns), mx.float32)
    numbers = {"COLUMNS": columns, "K": k}
    return dispatch("grouped_sum", {"T": grouped.dtype}, numbers, [out], *_grid(columns // 8, rows))


def _grid(threads: int, rows: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return grid and threadgroup for so many threads to a row."""
    parts = next(n for n in range(-(-threads // MOST_THREADS), threads + 1) if threads % n == 0)
    return (threads, rows, 1), (threads // parts, 1)
