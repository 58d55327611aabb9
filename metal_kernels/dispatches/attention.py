"""The launches of attention over a cache: one, or where there are many keys, one split over them and one that joins."""

import functools
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from metal_kernels.dispatches.plan import FEW_ROWS, FLOATS, Dispatch, Kind, are, bits, kind, name, planned
from metal_kernels.source import CONSTANT_BELOW, TemplateValue

SPLIT_KEYS = 256
"""Keys to a threadgroup where they are split: two runs of 32 to each of its four simdgroups. For 8 key/value heads that
is 32 threadgroups at 1,000 keys, and what a split hands on (68 floats a query head) stays 3% of its keys and values.
An estimate: nothing was tuned on a Mac."""
SIMDGROUPS = 4
"""A window of 128 keys is one run of 32 for each."""
MAX_GROUP = 8
"""Query heads to a key/value head: each takes a lane 8 registers for sums, of 128 there are."""


def attention_with_cache(
    q: mx.array,
    kv: mx.array,
    body: mx.array,
    tail: mx.array,
    rows: mx.array,
    keys: int,
    sinks: mx.array,
    scale: float,
    window: int | None,
    dtype: mx.Dtype,
) -> Dispatch | None:
    """Attended rows and the fresh tail; where :func:`is_split`, what :func:`attention_combine` makes rows of."""
    splits = 0 if window is not None else -(-(keys + len(q)) // SPLIT_KEYS)
    if body.size == 0:
        body = tail  # of which nothing is read: an empty array would come in constant memory
    plan = _attention(*map(kind, (q, kv, body, tail, rows, sinks)), splits if splits > 1 else 0, scale, window, dtype)
    return plan and plan._replace(inputs=(q, kv, body, tail, rows, sinks))


def is_split(attended: mx.array) -> bool:
    """Whether the first output of an attention is of parts."""
    return attended.ndim == 4


def attention_combine(parts: mx.array, sinks: mx.array, dtype: mx.Dtype) -> Dispatch:
    """parts [L, N, splits, D + 4] and sinks [N] to attended rows."""
    return _combine(kind(parts), kind(sinks), dtype)._replace(inputs=(parts, sinks))


@functools.lru_cache(64)
def _attention(
    q: Kind,
    kv: Kind,
    body: Kind,
    tail: Kind,
    rows: Kind,
    sinks: Kind,
    splits: int,
    scale: float,
    window: int | None,
    dtype: mx.Dtype,
) -> Dispatch | None:
    L, N, D = q.shape
    M, room = kv.shape[2], tail.shape[3]
    if not (0 < L <= FEW_ROWS and D in (32, 64, 128) and N % M == 0 and N // M <= MAX_GROUP and N >= CONSTANT_BELOW):
        return None
    # The oldest row of a tail has to lie in the window of the first new one, or it would not be handed on.
    if body.shape[1] != 1 or (window is not None and window < room):
        return None
    if not (are((mx.float32,), q) and are((mx.int32,), rows) and are(FLOATS, kv, sinks) and dtype in FLOATS):
        return None
    if not are((kv.dtype,), body, tail):
        return None
    values: dict[str, TemplateValue] = {
        "T": name(kv.dtype),
        "S": name(sinks.dtype),
        "O": name(mx.float32 if splits else dtype),
        "D": D,
        "GROUP": N // M,
        "TAIL": room,
        "WINDOW": window or 0,
        "SPLIT": SPLIT_KEYS if splits else 0,
        "BATCH": D // 16,
        "SIMDGROUPS": SIMDGROUPS,
        "SCALE_BITS": bits(scale),
    }
    attended = (L, N, splits, D + 4) if splits else (L, N * D)
    dtypes = (mx.float32 if splits else dtype, kv.dtype)

    def threads(v: Mapping[str, Any]) -> tuple[int, int]:
        width = 32 * v["SIMDGROUPS"]
        return max(splits, 1) * width, width

    return planned("attention", values, (attended, tail.shape), dtypes, threads, (M, L))


@functools.lru_cache(64)
def _combine(parts: Kind, sinks: Kind, dtype: mx.Dtype) -> Dispatch:
    L, N, _, width = parts.shape
    values: dict[str, TemplateValue] = {"S": name(sinks.dtype), "O": name(dtype), "D": width - 4}
    shape = (L, N * (width - 4))
    return planned("attention_combine", values, (shape,), (dtype,), lambda v: (32 * N, 32), (L, 1))
