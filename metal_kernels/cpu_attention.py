"""Attention of several sequences' new positions on the CPU backend, where MLX spends more on starting its many small
operations than on computing them.

In numpy, over the arrays where they lie: no padding, so nothing of one sequence enters another. Knows the cache's two
parts; the shaders and their launching know nothing of it.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np


def attention_with_caches(
    q: mx.array,
    kv: mx.array,
    caches: Sequence[tuple[mx.array, mx.array, mx.array, int]],
    sinks: mx.array,
    scale: float,
    window: int | None,
) -> tuple[mx.array, list[mx.array]]:
    """:func:`reference.attention_with_cache` for each of S sequences: attended [S * L, N * D] float32, and their tails.

    q [S * L, N, D] and kv [S * L, 2, M, D] are float32, the first sequence's L rows first. ``caches`` hold what that
    function takes as body, tail, rows and keys, in float32 too.
    """
    mx.eval(q, kv, sinks)
    queries, new, sink = np.array(q, copy=False), np.array(kv, copy=False), np.array(sinks.astype(mx.float32))
    (T, N, D), M = queries.shape, new.shape[2]
    L, G = T // len(caches), N // M
    attended, tails = np.empty((T, M, G, D), np.float32), []
    sink = np.tile(sink.reshape(M, G, 1), (1, 1, L)).reshape(M, G * L, 1)
    for number, (body, tail, rows, keys) in enumerate(caches):
        own = slice(number * L, (number + 1) * L)
        body_rows, tail_rows = np.array(rows, copy=False).tolist()
        fresh = np.array(tail)
        fresh[:, 0, :, tail_rows : tail_rows + L] = new[own].transpose(1, 2, 0, 3)
        tails.append(mx.array(fresh))
        parts = np.array(body, copy=False)[:, 0, :, :body_rows], fresh[:, 0, :, : tail_rows + L]
        grouped = (queries[own] * np.float32(scale)).reshape(L, M, G, D).transpose(1, 2, 0, 3).reshape(M, G * L, D)
        scores = np.concatenate([sink, *(grouped @ part[0].swapaxes(1, 2) for part in parts)], axis=-1)
        if L > 1 or (window is not None and keys >= window):
            age = np.arange(keys, keys + L)[:, None] - np.arange(keys + L)
            seen = (age >= 0) & (age < (window or keys + L))
            np.copyto(scores.reshape(M, G, L, -1)[..., 1:], -np.inf, where=~seen)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        split = 1 + body_rows
        out = weights[..., 1:split] @ parts[0][1] + weights[..., split:] @ parts[1][1]
        attended[own] = out.reshape(M, G, L, D).transpose(2, 0, 1, 3)
    return mx.array(attended.reshape(T, N * D)), tails
