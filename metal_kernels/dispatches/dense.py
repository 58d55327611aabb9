"""The launches of the dense products: queries, keys and values; the output projection; the head."""

import math

import mlx.core as mx

from metal_kernels.dispatches.dispatch import FEW_ROWS, FLOATS, ArraySpec, Dispatch, all_of, bits, dispatch, made_once
from metal_kernels.operands import Dense
from metal_kernels.source import CONSTANT_BELOW

PAIRS = 4
"""Pairs of matrix rows to a simdgroup: it reads the input once for these eight rows."""
MOST_TILE_ROWS = 4
"""The most rows of the input to a simdgroup, which loads and opens each weight once for all of them. Their sums with
eight matrix rows fill its registers. More rows are tiles in one threadgroup. A tile of eight rows of the input and four
of the matrix would load each weight once, but the input twice as often, which is more bytes in all."""
SIMDGROUPS = 2
"""Simdgroups to a threadgroup for each tile."""
ARGMAX_SIMDGROUPS = 8
"""Simdgroups to a threadgroup where they agree on their largest logit, for all tiles together: fewer threadgroups leave
fewer logits over."""


def norm_qkv_rope(
    x: mx.array, norm: mx.array, eps: float, qkv: Dense, cos: mx.array, sin: mx.array, *, heads: int, kv_heads: int
) -> Dispatch | None:
    if qkv.bias is None:
        return None
    inputs = (x, norm, *_matrix(qkv, qkv.bias), qkv.bias, cos, sin)
    return _norm_qkv_rope(inputs, eps, heads, kv_heads)


def output_residual(attended: mx.array, o: Dense, residual: mx.array) -> Dispatch | None:
    if o.bias is None:
        return None
    inputs = (attended, *_matrix(o, o.bias), o.bias, residual)
    return _output_residual(inputs)


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense) -> Dispatch | None:
    if head.bias is not None:
        return None
    inputs = (x, norm, *_matrix(head, norm))
    return _norm_head(inputs, eps)


def norm_head_argmax(x: mx.array, norm: mx.array, eps: float, head: Dense) -> Dispatch | None:
    """Its outputs are the largest logit of each threadgroup and its token, [T, threadgroups] each."""
    if head.bias is not None:
        return None
    inputs = (x, norm, *_matrix(head, norm))
    return _norm_head_argmax(inputs, eps)


def norm_head_argmax_combine(logits: mx.array, tokens: mx.array) -> Dispatch | None:
    """Its outputs are, of what :func:`norm_head_argmax` left, each row's token and its logit, [T] each."""
    return _norm_head_argmax_combine((logits, tokens))


def _matrix(layer: Dense, unread: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Return weight, scales and offsets. A float matrix has no scales: ``unread`` takes the place of both."""
    if layer.scales is None or layer.offsets is None:
        return layer.weight, unread, unread
    return layer.weight, layer.scales, layer.offsets


@made_once
def _norm_qkv_rope(inputs: tuple[ArraySpec, ...], eps: float, heads: int, kv_heads: int) -> Dispatch | None:
    x, norm, weight, scales, offsets, bias, cos, sin = inputs
    rows, columns = x.shape
    outputs = weight.shape[0]
    head_dim = outputs // (heads + 2 * kv_heads)
    if not _fits(rows, columns, weight, scales, offsets) or not all_of(FLOATS, norm, bias):
        return None
    if not all_of((mx.float32,), x, cos, sin):
        return None
    if head_dim % (2 * PAIRS) or rows * head_dim // 2 < CONSTANT_BELOW:
        return None
    tile, tiles = _tiled(rows, weight)
    dtype = scales.dtype if weight.dtype == mx.uint32 else weight.dtype
    types = {"N": norm.dtype, "W": weight.dtype, "S": scales.dtype, "B": bias.dtype, "O": dtype}
    numbers = {
        "COLUMNS": columns,
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "PAIRS": PAIRS,
        "ROWS": tile,
        "EPSILON_BITS": bits(eps),
    }
    q = ((rows, heads, head_dim), mx.float32)
    kv = ((rows, 2, kv_heads, head_dim), dtype)
    used = (heads + 2 * kv_heads) * head_dim
    return dispatch("norm_qkv_rope", types, numbers, [q, kv], *_grid(used, tiles, SIMDGROUPS))


@made_once
def _output_residual(inputs: tuple[ArraySpec, ...]) -> Dispatch | None:
    attended, weight, scales, offsets, bias, residual = inputs
    rows, columns = attended.shape
    outputs = weight.shape[0]
    if not _fits(rows, columns, weight, scales, offsets) or not all_of(FLOATS, attended, bias):
        return None
    if residual.dtype != mx.float32:
        return None
    types = {"T": attended.dtype, "W": weight.dtype, "S": scales.dtype, "B": bias.dtype}
    tile, tiles = _tiled(rows, weight)
    numbers = {"COLUMNS": columns, "OUTPUTS": outputs, "PAIRS": PAIRS, "ROWS": tile}
    out = ((rows, outputs), mx.float32)
    return dispatch("output_residual", types, numbers, [out], *_grid(outputs, tiles, SIMDGROUPS))


@made_once
def _norm_head(inputs: tuple[ArraySpec, ...], eps: float) -> Dispatch | None:
    template = _head_template(inputs, eps)
    if template is None:
        return None
    rows = inputs[0].shape[0]
    vocabulary = inputs[2].shape[0]
    logits = ((rows, vocabulary), mx.float32)
    return dispatch("norm_head", *template, [logits], *_grid(vocabulary, _tiled(rows, inputs[2])[1], SIMDGROUPS))


@made_once
def _norm_head_argmax(inputs: tuple[ArraySpec, ...], eps: float) -> Dispatch | None:
    template = _head_template(inputs, eps)
    if template is None:
        return None
    rows = inputs[0].shape[0]
    vocabulary = inputs[2].shape[0]
    tiles = _tiled(rows, inputs[2])[1]
    simdgroups = ARGMAX_SIMDGROUPS // tiles
    while vocabulary % (2 * PAIRS * simdgroups):  # the shader needs all simdgroups of a threadgroup
        simdgroups //= 2
    shape = (rows, vocabulary // (2 * PAIRS * simdgroups))
    if math.prod(shape) < CONSTANT_BELOW:  # norm_head_argmax_combine could not take it
        return None
    types, numbers = template
    numbers |= {"SIMDGROUPS": simdgroups, "TILES": tiles}
    outputs = [(shape, mx.float32), (shape, mx.uint32)]
    return dispatch("norm_head_argmax", types, numbers, outputs, *_grid(vocabulary, tiles, simdgroups))


@made_once
def _norm_head_argmax_combine(inputs: tuple[ArraySpec, ...]) -> Dispatch | None:
    logits, tokens = inputs
    rows, count = logits.shape
    if rows * count < CONSTANT_BELOW or logits.dtype != mx.float32 or tokens.dtype != mx.uint32:
        return None
    numbers = {"COUNT": count, "SIMDGROUPS": ARGMAX_SIMDGROUPS}
    outputs = [((rows,), mx.uint32), ((rows,), mx.float32)]
    width = 32 * ARGMAX_SIMDGROUPS
    return dispatch("norm_head_argmax_combine", {}, numbers, outputs, (width, rows, 1), (width, 1))


def _head_template(inputs: tuple[ArraySpec, ...], eps: float) -> tuple[dict[str, mx.Dtype], dict[str, int]] | None:
    """Return the template values both head shaders have, or None where neither takes the arrays."""
    x, norm, weight, scales, offsets = inputs
    rows, columns = x.shape
    if not _fits(rows, columns, weight, scales, offsets) or norm.dtype not in FLOATS or x.dtype != mx.float32:
        return None
    types = {"N": norm.dtype, "W": weight.dtype, "S": scales.dtype}
    numbers = {"COLUMNS": columns, "VOCABULARY": weight.shape[0], "PAIRS": PAIRS, "ROWS": _tiled(rows, weight)[0]}
    return types, numbers | {"EPSILON_BITS": bits(eps)}


def _tiled(rows: int, weight: ArraySpec) -> tuple[int, int]:
    """Return the rows of a tile of the input, and how many tiles there are. Float32 weights leave fewer registers."""
    tiles = -(-rows // (MOST_TILE_ROWS - (weight.dtype == mx.float32)))
    return -(-rows // tiles), tiles


def _grid(outputs: int, tiles: int, simdgroups: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Return grid and threadgroup for a matrix of ``outputs`` rows. All tiles of the input share a threadgroup."""
    return (32 * outputs // (2 * PAIRS), tiles, 1), (32 * simdgroups, tiles)


def _fits(rows: int, columns: int, weight: ArraySpec, scales: ArraySpec, offsets: ArraySpec) -> bool:
    if not 0 < rows <= FEW_ROWS or weight.shape[0] % (2 * PAIRS):
        return False
    if weight.dtype == mx.uint32:
        return columns % 64 == 0 and scales.dtype == offsets.dtype and scales.dtype in FLOATS
    return columns % 32 == 0 and weight.dtype in FLOATS
