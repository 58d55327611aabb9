"""Several sequences attended together give what MLX's own attention gives each alone, whatever their lengths."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import launch
from metal_kernels.operands import Attention, CacheView

N = 8
M = 2
D = 64
TAIL = 64


def sequences(lengths, new, dtype, seed=0):
    """Return q, kv, caches and sinks for ``new`` positions. ``lengths`` are filled (body, tail) rows; later ones are
    large."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return mx.array(rng.standard_normal(shape, np.float32)).astype(dtype)

    caches = []
    for body, tail in lengths:
        parts = [normal(2, 1, M, rows, D) for rows in (body + 5, TAIL)]
        parts[0][:, :, :, body:] = 1e4
        parts[1][:, :, :, tail:] = 1e4
        caches.append(CacheView(*parts, mx.array([body, tail], mx.int32), body + tail))
    T = len(lengths) * new
    return normal(T, N, D).astype(mx.float32), normal(T, 2, M, D), caches, normal(N).astype(mx.float32)


def by_mlx(q, kv, cache, sinks, window):
    body, tail, counts, keys = cache
    body_rows, tail_rows = counts.tolist()
    parts = [body[:, :, :, :body_rows], tail[:, :, :, :tail_rows], kv.transpose(1, 2, 0, 3)[:, None]]
    joined = mx.concatenate(parts, axis=3).astype(mx.float32)
    age = mx.arange(keys, keys + len(q))[:, None] - mx.arange(keys + len(q))
    mask = (age >= 0) & (age < (window or keys + len(q)))
    out = mx.fast.scaled_dot_product_attention(
        q.transpose(1, 0, 2)[None], joined[0], joined[1], scale=0.2, mask=mask, sinks=sinks
    )
    return np.array(out[0].transpose(1, 0, 2).reshape(len(q), -1))


@pytest.mark.parametrize("window", [None, 1, 128])
@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("kernels", ["", "off"])
def test_each_sequence_is_as_alone(window, new, dtype, kernels, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, kernels)
    lengths = [(0, 0), (0, 7), (100, 27), (100, 28), (127, 60), (40, 0)]
    q, kv, caches, sinks = sequences(lengths, new, dtype)
    before = [np.array(cache.tail.astype(mx.float32)) for cache in caches]
    attended, tails = launch.decode_attention(q, kv, caches, Attention(sinks, 0.2, window), mx.float32)
    for number, cache in enumerate(caches):
        own = slice(number * new, (number + 1) * new)
        filled = lengths[number][1]
        want = by_mlx(q[own], kv[own], cache, sinks, window)
        assert np.abs(np.array(attended[own]) - want).max() <= 2e-6 * np.abs(want).max()
        assert tails[number].dtype == dtype
        for tail in (tails[number], cache.tail):  # a rewind needs the rows there were
            assert np.array_equal(np.array(tail[..., :filled, :].astype(mx.float32)), before[number][..., :filled, :])
        assert mx.array_equal(tails[number][..., filled : filled + new, :], kv[own].transpose(1, 2, 0, 3)[:, None])
