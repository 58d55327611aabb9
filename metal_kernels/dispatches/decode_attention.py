"""The launches of attention over a cache: one, or where there are many keys, one that splits them and one that
joins."""

import math

import mlx.core as mx

from metal_kernels.dispatches.dispatch import FEW_ROWS, FLOATS, ArraySpec, Dispatch, all_of, bits, dispatch, made_once
from metal_kernels.operands import Attention, CacheView
from metal_kernels.source import CONSTANT_BELOW

SPLIT_KEYS = 256
"""Keys to a split: two runs of 32 to each of its four simdgroups. The parts of a split (68 floats a query head) are 3%
of its keys and values in size. This is an estimate: it has not been tuned on a Mac."""
INSIDE = 4
"""The most splits that one threadgroup has, one beside the other. It joins them without a second shader."""
SIMDGROUPS = 4
"""Simdgroups to a split. A window of 128 keys is one run of 32 for each."""
MAX_GROUP = 8
"""Most query heads to a key/value head. Each takes 8 of a lane's 128 registers for sums."""
FEW_KEYS_GROUP = 2
"""The query heads to a threadgroup where one has all keys. So 8 key/value heads with 8 query heads each are 32
threadgroups, and a lane has registers for more keys at a time. Four threadgroups load each key, of which three find it
in the cache: all keys and values are 2 MB at most."""


def decode_attention(q: mx.array, kv: mx.array, cache: CacheView, layer: Attention, dtype: mx.Dtype) -> Dispatch | None:
    """Return the record of the launch, or None for arrays it does not take. The outputs are attended rows and the fresh
    tail; where :func:`is_split`, parts in place of the rows, which :func:`decode_attention_combine` joins."""
    splits = 1 if layer.window is not None else -(-(cache.keys + len(q)) // SPLIT_KEYS)
    # An empty body would come in constant memory. The tail takes its place, because no row of it is read.
    body = cache.body if cache.body.size else cache.tail
    inputs = (q, kv, body, cache.tail, cache.counts, layer.sinks)
    return _decode_attention(inputs, splits, layer.scale, layer.window, dtype)


def is_split(attended: mx.array) -> bool:
    """Return whether the first output of a decode attention holds parts."""
    return attended.ndim == 4


def decode_attention_combine(parts: mx.array, sinks: mx.array, dtype: mx.Dtype) -> Dispatch | None:
    """Join parts [L, N, splits, D + 4] under sinks [N] into attended rows [L, N * D] in ``dtype``."""
    return _combine((parts, sinks), dtype)


@made_once
def _decode_attention(
    inputs: tuple[ArraySpec, ...], splits: int, scale: float, window: int | None, dtype: mx.Dtype
) -> Dispatch | None:
    q, kv, body, tail, counts, sinks = inputs
    L, N, D = q.shape
    M = kv.shape[2]
    room = tail.shape[3]
    if not (0 < L <= FEW_ROWS and D in (32, 64, 128) and N % M == 0 and N // M <= MAX_GROUP and N >= CONSTANT_BELOW):
        return None
    # The first new row copies the old tail, so its window has to reach the oldest row there.
    if body.shape[1] != 1 or (window is not None and window < room):
        return None
    if not (all_of((mx.float32,), q) and all_of((mx.int32,), counts)):
        return None
    if not (all_of(FLOATS, kv, sinks) and dtype in FLOATS and all_of((kv.dtype,), body, tail)):
        return None
    inside = 0 if splits > INSIDE else 1 if splits == 1 else INSIDE
    attended = ((L, N * D), dtype) if inside else ((L, N, splits, D + 4), mx.float32)
    group = math.gcd(N // M, FEW_KEYS_GROUP) if inside else N // M
    share = N // M // group
    types = {"T": kv.dtype, "S": sinks.dtype, "O": attended[1]}
    numbers = {
        "D": D,
        "GROUP": group,
        "TAIL": room,
        "WINDOW": window or 0,
        "SPLIT": max(SPLIT_KEYS, window or 0),
        "INSIDE": inside,
        "SHARE": share,
        # Keys that a lane holds at a time. More would take more registers than a thread has, or spill.
        "BATCH": 4 if inside else max(1, D // (16 * kv.dtype.size)),
        "SIMDGROUPS": SIMDGROUPS,
        "SCALE_BITS": bits(scale),
    }
    width = 32 * SIMDGROUPS * max(inside, 1)
    grid = (width if inside else splits * width, M * share, L)
    return dispatch("decode_attention", types, numbers, [attended, (tail.shape, kv.dtype)], grid, (width, 1))


@made_once
def _combine(inputs: tuple[ArraySpec, ...], dtype: mx.Dtype) -> Dispatch:
    parts, sinks = inputs
    L, N, _, width = parts.shape
    D = width - 4
    types = {"S": sinks.dtype, "O": dtype}
    numbers = {"D": D}
    return dispatch("decode_attention_combine", types, numbers, [((L, N * D), dtype)], (32 * N, L, 1), (32, 1))
