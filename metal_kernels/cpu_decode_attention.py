"""Decode attention of several sequences on the CPU backend, where MLX spends more time on starting many small
operations than on computing them.

It is in numpy and reads arrays where they lie. There is no padding, so no sequence affects another. Knows the two parts
of a cache; knows no shader.
"""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from metal_kernels.reference import Attention, CacheView


def decode_attention(
    q: mx.array, kv: mx.array, caches: Sequence[CacheView], layer: Attention
) -> tuple[mx.array, list[mx.array]]:
    """Run :func:`reference.decode_attention` for each of S sequences, all in float32.

    q [S * L, N, D] and kv [S * L, 2, M, D] hold the L rows of the first sequence first. Returns attended rows
    [S * L, N * D] and a new tail for each cache.
    """
    mx.eval(q, kv, layer.sinks)
    queries = np.array(q, copy=False)
    new = np.array(kv, copy=False)
    T, N, D = queries.shape
    M = new.shape[2]
    L = T // len(caches)
    G = N // M
    attended = np.empty((T, M, G, D), np.float32)
    tails = []
    window = layer.window
    sink = np.array(layer.sinks.astype(mx.float32)).reshape(M, G, 1)
    sink = np.tile(sink, (1, 1, L)).reshape(M, G * L, 1)
    for number, (body, tail, counts, keys) in enumerate(caches):
        own = slice(number * L, (number + 1) * L)
        body_rows, tail_rows = np.array(counts, copy=False).tolist()
        fresh = np.array(tail)
        fresh[:, 0, :, tail_rows : tail_rows + L] = new[own].transpose(1, 2, 0, 3)
        tails.append(mx.array(fresh))
        parts = np.array(body, copy=False)[:, 0, :, :body_rows], fresh[:, 0, :, : tail_rows + L]
        grouped = (
            (queries[own] * np.float32(layer.scale)).reshape(L, M, G, D).transpose(1, 2, 0, 3).reshape(M, G * L, D)
        )
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
