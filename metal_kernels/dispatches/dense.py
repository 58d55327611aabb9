"""The launches of the dense products: queries, keys and values; the output projection; the head."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from metal_kernels.dispatches.plan import FEW_ROWS, FLOATS, Dispatch, Kind, are, bits, kind, name, planned
from metal_kernels.reference import Dense
from metal_kernels.source import CONSTANT_BELOW, TemplateValue

PAIRS = 4
"""Pairs of matrix rows to a simdgroup: it reads the vector once for eight of them."""
SIMDGROUPS = 2
BEST_SIMDGROUPS = 8
"""Where a threadgroup's simdgroups agree on their largest logit: the fewer threadgroups, the fewer are left over."""


def norm_qkv_rope(
    x: mx.array, norm: mx.array, eps: float, qkv: Dense, cos: mx.array, sin: mx.array, heads: int, kv_heads: int
) -> Dispatch | None:
    if qkv.bias is None:
        return None
    inputs = (x, norm, *_matrix(qkv, qkv.bias), qkv.bias, cos, sin)
    plan = _norm_qkv_rope(*map(kind, inputs), eps, heads, kv_heads)
    return plan and plan._replace(inputs=inputs)


def output_residual(attended: mx.array, o: Dense, residual: mx.array) -> Dispatch | None:
    if o.bias is None:
        return None
    inputs = (attended, *_matrix(o, o.bias), o.bias, residual)
    plan = _output_residual(*map(kind, inputs))
    return plan and plan._replace(inputs=inputs)


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense) -> Dispatch | None:
    return _norm_head(x, norm, eps, head, best=False)


def norm_head_best(x: mx.array, norm: mx.array, eps: float, head: Dense) -> Dispatch | None:
    """The first half of ``norm_head_argmax``: the largest logit of each threadgroup and its token."""
    return _norm_head(x, norm, eps, head, best=True)


def best_token(logits: mx.array, tokens: mx.array) -> Dispatch | None:
    """The second half."""
    inputs = (logits, tokens)
    plan = _best_token(*map(kind, inputs))
    return plan and plan._replace(inputs=inputs)


def _norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense, best: bool) -> Dispatch | None:
    if head.bias is not None:
        return None
    inputs = (x, norm, *_matrix(head, norm))
    plan = _head(*map(kind, inputs), eps, best)
    return plan and plan._replace(inputs=inputs)


def _matrix(layer: Dense, unread: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Weight, scales and biases. A matrix of floats has no scales: in their place goes an array that is never read."""
    if layer.scales is None or layer.biases is None:
        return layer.weight, unread, unread
    return layer.weight, layer.scales, layer.biases


@functools.lru_cache(64)
def _norm_qkv_rope(
    x: Kind,
    norm: Kind,
    weight: Kind,
    scales: Kind,
    biases: Kind,
    bias: Kind,
    cos: Kind,
    sin: Kind,
    eps: float,
    heads: int,
    kv_heads: int,
) -> Dispatch | None:
    rows, columns = x.shape
    head_dim = weight.shape[0] // (heads + 2 * kv_heads)
    if not _fits(rows, columns, weight, scales, biases) or not are(FLOATS, norm, bias):
        return None
    if x.dtype != mx.float32 or not are((mx.float32,), cos, sin):
        return None
    if head_dim % (2 * PAIRS) or rows * head_dim // 2 < CONSTANT_BELOW:
        return None
    dtype = scales.dtype if weight.dtype == mx.uint32 else weight.dtype
    values: dict[str, TemplateValue] = {
        "N": name(norm.dtype),
        "W": name(weight.dtype),
        "S": name(scales.dtype),
        "B": name(bias.dtype),
        "O": name(dtype),
        "COLUMNS": columns,
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "PAIRS": PAIRS,
        "EPSILON_BITS": bits(eps),
    }
    shapes = ((rows, heads, head_dim), (rows, 2, kv_heads, head_dim))
    threads = functools.partial(_qkv_threads, _simdgroups(SIMDGROUPS, rows))
    return planned("norm_qkv_rope", values, shapes, (mx.float32, dtype), threads, (rows, 1), together=rows)


@functools.lru_cache(64)
def _output_residual(
    attended: Kind, weight: Kind, scales: Kind, biases: Kind, bias: Kind, residual: Kind
) -> Dispatch | None:
    rows, columns = attended.shape
    outputs = weight.shape[0]
    if not _fits(rows, columns, weight, scales, biases) or not are(FLOATS, attended, bias):
        return None
    if residual.dtype != mx.float32:
        return None
    values: dict[str, TemplateValue] = {
        "T": name(attended.dtype),
        "W": name(weight.dtype),
        "S": name(scales.dtype),
        "B": name(bias.dtype),
        "COLUMNS": columns,
        "OUTPUTS": outputs,
        "PAIRS": PAIRS,
    }
    shape = (rows, outputs)
    threads = functools.partial(_matrix_threads, "OUTPUTS", _simdgroups(SIMDGROUPS, rows))
    return planned("output_residual", values, (shape,), (mx.float32,), threads, (rows, 1), together=rows)


@functools.lru_cache(64)
def _head(x: Kind, norm: Kind, weight: Kind, scales: Kind, biases: Kind, eps: float, best: bool) -> Dispatch | None:
    rows, columns = x.shape
    vocabulary = weight.shape[0]
    if not _fits(rows, columns, weight, scales, biases) or norm.dtype not in FLOATS or x.dtype != mx.float32:
        return None
    values: dict[str, TemplateValue] = {
        "N": name(norm.dtype),
        "W": name(weight.dtype),
        "S": name(scales.dtype),
        "COLUMNS": columns,
        "VOCABULARY": vocabulary,
        "PAIRS": PAIRS,
        "EPSILON_BITS": bits(eps),
    }
    if not best:
        threads = functools.partial(_matrix_threads, "VOCABULARY", _simdgroups(SIMDGROUPS, rows))
        shape = (rows, vocabulary)
        return planned("norm_head", values, (shape,), (mx.float32,), threads, (rows, 1), together=rows)
    simdgroups = _simdgroups(BEST_SIMDGROUPS, rows)
    while vocabulary % (2 * PAIRS * simdgroups):  # a threadgroup has all its simdgroups
        simdgroups //= 2
    shape = (rows, vocabulary // (2 * PAIRS * simdgroups))
    if math.prod(shape) < CONSTANT_BELOW:  # best_token could not take it
        return None
    values |= {"SIMDGROUPS": simdgroups, "ROWS": rows}
    dtypes = (mx.float32, mx.uint32)
    return planned("norm_head_best", values, (shape, shape), dtypes, _best_threads, (rows, 1), together=rows)


@functools.lru_cache(64)
def _best_token(logits: Kind, tokens: Kind) -> Dispatch | None:
    rows, count = logits.shape
    if rows * count < CONSTANT_BELOW or logits.dtype != mx.float32 or tokens.dtype != mx.uint32:
        return None
    values: dict[str, TemplateValue] = {"COUNT": count, "SIMDGROUPS": BEST_SIMDGROUPS}
    dtypes = (mx.uint32, mx.float32)
    return planned("best_token", values, ((rows,), (rows,)), dtypes, _one_threadgroup, (rows, 1))


def _qkv_threads(simdgroups: int, v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * (v["HEADS"] + 2 * v["KV_HEADS"]) * v["HEAD_DIM"] // 2 // v["PAIRS"], 32 * simdgroups


def _matrix_threads(rows: str, simdgroups: int, v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * v[rows] // 2 // v["PAIRS"], 32 * simdgroups


def _best_threads(v: Mapping[str, Any]) -> tuple[int, int]:
    return _matrix_threads("VOCABULARY", v["SIMDGROUPS"], v)


def _one_threadgroup(v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * v["SIMDGROUPS"], 32 * v["SIMDGROUPS"]


def _simdgroups(most: int, rows: int) -> int:
    """Simdgroups side by side for each of the rows that share a threadgroup: more than 8 might not fit."""
    return max(1, min(most, 8 // rows))


def _fits(rows: int, columns: int, weight: Kind, scales: Kind, biases: Kind) -> bool:
    if not 0 < rows <= FEW_ROWS or weight.shape[0] % (2 * PAIRS):
        return False
    if weight.dtype == mx.uint32:
        return columns % 64 == 0 and scales.dtype == biases.dtype and scales.dtype in FLOATS
    return columns % 32 == 0 and weight.dtype in FLOATS
