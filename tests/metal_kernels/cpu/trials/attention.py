"""Trials of attention, over prompts and over caches whose rows without a position are NaN."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from metal_kernels import reference
from metal_kernels.cpu import operations as native
from metal_kernels.operands import Attention, CacheView
from tests.metal_kernels.cpu.trials.common import F32, ROWS, Draw, Made, Trial, results
from tests.metal_kernels.shaders.common import exact

TAIL = 64
SCORES = 8.0
"""The size of a sink, or of a score's products in all, up to which their rounding is below that of other sums."""


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, layer: Attention) -> Made:
    """Return the rows of queries [N, L, D], of the last L of P positions, over keys and values [M, P, D]: [L, N * D].

    An error of a score, or of its difference from the sink, is a part of the size of the sink and of its D products.
    Its weight's error is the same part of the weight. So the size of results grows with them.
    """
    N, L, D = q.shape
    M, P, _ = k.shape
    age = np.arange(P - L, P)[:, None] - np.arange(P)
    seen = (age >= 0) & (age < (layer.window or P))
    out = np.empty((L, N, D))
    products = SCORES
    for n in range(N):
        scores = q[n] @ k[n // (N // M)].T * layer.scale
        sizes = np.abs(q[n]) @ np.abs(k[n // (N // M)]).T * layer.scale
        products = max(products, float(sizes[seen].max()))
        scores = np.where(seen, scores, -np.inf)
        sink = exact(layer.sinks)[n]
        products = max(products, abs(sink) if np.isfinite(sink) else 0)
        most = np.maximum(scores.max(1, keepdims=True), sink)
        weights = np.exp(scores - most)
        out[:, n] = weights @ v[n // (N // M)] / (weights.sum(1, keepdims=True) + np.exp(sink - most))
    return Made(out.reshape(L, N * D), float(np.abs(out).max()) * products / SCORES)


def joined(parts: Sequence[Made], join: Callable[[list[np.ndarray]], np.ndarray]) -> Made:
    return Made(join([part.values for part in parts]), max(part.size for part in parts))


def heads(draw: Draw) -> tuple[int, int, int, Attention]:
    M = draw.one_of(1, 1, 2, 3)
    N = M * draw.one_of(1, 2, 3, 4, 5, 7, 8, 16)
    D = draw.one_of(32, 64, 64, 96, 128)
    window = draw.one_of(None, None, 1, 2, 16, 100, 128)
    sinks = np.array(draw.normal(N, scale=2))
    sinks[:2] = draw.one_of((40, -40), (0, 0), (-np.inf, 3))[:N]
    return N, M, D, Attention(mx.array(sinks), draw.one_of(0.5, 1.5) * D**-0.5, window)


def prefill_attention(draw: Draw) -> Trial:
    N, M, D, layer = heads(draw)
    B = draw.one_of(1, 1, 2)
    L = draw.one_of(*ROWS, 63, 64, 65, 129)
    P = L + draw.one_of(0, 0, 1, 63, 64, 65, 200)
    q = draw.normal(B, L, N, D, scale=2).transpose(0, 2, 1, 3)  # as it comes from the projection
    kv = draw.normal(2, B, M, P + 5, D)[:, :, :, :P]  # as a cache with room has it
    want = [attention(exact(q[b]), exact(kv[0, b]), exact(kv[1, b]), layer) for b in range(B)]
    arguments = q, kv[0], kv[1], layer
    return Trial(
        f"B={B} N={N} M={M} D={D} L={L} P={P} window={layer.window}",
        lambda: results(native.prefill_attention(*arguments)),
        lambda: results(reference.prefill_attention(*arguments)),
        [joined(want, np.array)],
    )


def decode_attention(draw: Draw) -> Trial:
    """Rows of a cache that hold no position are NaN."""
    N, M, D, layer = heads(draw)
    S = draw.one_of(1, 1, 2, 3, 5)
    L = draw.whole(1, 8)
    lengths = []
    for _ in range(S):
        tail = draw.one_of(0, 1, 17, TAIL - L)
        body = draw.one_of(0, 1, 100, 127, 300, *(512 * n - tail - L + i for n in (1, 2) for i in (-1, 0, 1)))
        lengths.append((min(body, layer.window - 1) if layer.window else body, tail))
    q = draw.normal(S * L, N, D, scale=2)
    kv = draw.normal(S * L, 2, M, D)

    def padded(part: mx.array, rows: int) -> np.ndarray:
        out = np.full((2, 1, M, rows, D), np.nan, np.float32)
        out[:, :, :, : part.shape[3]] = np.array(part)
        return out

    held = [[draw.normal(2, 1, M, rows, D) for rows in each] for each in lengths]
    filled = [(padded(body, body.shape[3] + draw.one_of(1, 4)), padded(tail, TAIL)) for body, tail in held]
    own = [slice(s * L, s * L + L) for s in range(S)]
    want = []
    for rows, parts in zip(own, held, strict=True):
        new = np.array(kv[rows]).transpose(1, 2, 0, 3)[:, None]
        k, v = exact(mx.array(np.concatenate([*map(np.array, parts), new], axis=3)))[:, 0]
        want.append(attention(exact(q[rows]).transpose(1, 0, 2), k, v, layer))

    def caches() -> list[CacheView]:
        both = [(mx.array(body), mx.array(tail)) for body, tail in filled]
        counts = [mx.array(each, mx.int32) for each in lengths]
        return [CacheView(*b, c, sum(each)) for b, c, each in zip(both, counts, lengths, strict=True)]

    def written() -> list[np.ndarray]:
        views = caches()
        out = native.decode_attention(q, kv, views, layer)
        assert out is not None
        for rows, view, tail, (body, before), (_, count) in zip(own, views, out[1], filled, lengths, strict=True):
            before = before.copy()
            before[:, 0, :, count : count + L] = np.array(kv[rows]).transpose(1, 2, 0, 3)
            assert np.array_equal(np.array(tail), before, equal_nan=True), "a tail gets the new rows and no others"
            assert np.array_equal(np.array(view.tail), before, equal_nan=True), "in place"
            assert np.array_equal(np.array(view.body), body, equal_nan=True), "a body is only read"
        return [exact(out[0])]

    def plain() -> list[np.ndarray]:
        each = [
            reference.decode_attention(q[rows], kv[rows], view, layer, F32)[0]
            for rows, view in zip(own, caches(), strict=True)
        ]
        return [exact(mx.concatenate(each))]

    return Trial(
        f"S={S} L={L} N={N} M={M} D={D} window={layer.window}, body and tail {lengths}",
        written,
        plain,
        [joined(want, np.concatenate)],
    )
