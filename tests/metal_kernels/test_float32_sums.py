"""In bfloat16 on the CPU backend every product of the model is right to the rounding of its outputs.

MLX's own kernels there add up in bfloat16, and a sum over 2,880 columns is off by a tenth. The native library takes few
of these arrays, and here none.
"""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import launch, operands
from metal_kernels.operands import Attention, CacheView, Dense, Experts

pytestmark = pytest.mark.skipif(not launch.on_cpu(), reason="for the CPU backend")

BF16 = mx.bfloat16
H = 2880
ROWS = 192
EPS = 1e-5
LIMIT = 7.0
ROUNDED = {mx.float32: 1e-5, mx.float16: 1e-3, BF16: 2.0**-8}
"""The largest error, as a part of the largest value: one rounding, after adding up in float32."""


@pytest.fixture(autouse=True)
def no_native_library(monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "off")


def exact(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def normal(rng, *shape, scale=1.0, dtype=BF16):
    return mx.array((scale * rng.standard_normal(shape)).astype(np.float32)).astype(dtype)


def matrix(rng, rows, columns, kind, biased=True):
    """Return a layer in bfloat16 and the values it stands for."""
    bias = normal(rng, rows) if biased else None
    weight = (
        normal(rng, rows, columns, scale=columns**-0.5) + 0.02
    )  # the mean is not 0, so that sums grow as real ones do
    if kind == "bf16":
        return Dense(weight.astype(BF16), bias), exact(weight.astype(BF16))
    codes, scales, offsets = mx.quantize(weight.astype(mx.float32), group_size=64, bits=8)
    layer = Dense(codes, bias, scales.astype(BF16), offsets.astype(BF16))
    values = (np.array(codes)[..., None] >> (8 * np.arange(4, dtype=np.uint32))) & 255
    wide = [np.repeat(exact(array), 64, axis=1) for array in (layer.scales, layer.offsets)]
    return layer, values.reshape(rows, -1) * wide[0] + wide[1]


def close(got, want):
    error = float(np.abs(exact(got) - want).max() / np.abs(want).max())
    assert error <= ROUNDED[got.dtype]


def normed(x, norm):
    x = exact(x)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * exact(norm)


@pytest.mark.parametrize("kind", ["bf16", "q8"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_queries_keys_and_values(rows, kind):
    rng = np.random.default_rng(rows)
    qkv, values = matrix(rng, 4 * 64, H, kind)
    x = normal(rng, rows, H, scale=3, dtype=mx.float32)
    norm = 1 + normal(rng, H)
    zero = mx.zeros((rows, 32))
    q, kv = launch.norm_qkv_rope(x, norm, EPS, qkv, zero + 1, zero, heads=2, kv_heads=1)
    want = (normed(x, norm) @ values.T + exact(qkv.bias)).reshape(rows, 4, 64)
    assert (q.dtype, kv.dtype) == (mx.float32, BF16)
    close(q, want[:, :2])
    close(kv[:, :, 0], want[:, 2:])


@pytest.mark.parametrize("kind", ["bf16", "q8"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_output_projection(rows, kind):
    rng = np.random.default_rng(rows)
    o, values = matrix(rng, ROWS, 4096, kind)
    attended = normal(rng, rows, 4096, dtype=mx.float16)
    residual = normal(rng, rows, ROWS, dtype=mx.float32)
    got = launch.output_residual(attended, o, residual)
    assert got.dtype == mx.float32
    close(got, exact(attended) @ values.T + exact(o.bias) + exact(residual))


@pytest.mark.parametrize("kind", ["bf16", "q8"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_head(rows, kind):
    rng = np.random.default_rng(rows)
    head, values = matrix(rng, ROWS, H, kind, biased=False)
    x = normal(rng, rows, H, scale=3, dtype=mx.float32)
    norm = 1 + normal(rng, H)
    close(launch.norm_head(x, norm, EPS, head), normed(x, norm) @ values.T)


@pytest.mark.parametrize("kind", ["bf16", "q8"])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_embedding(rows, kind):
    table, values = matrix(np.random.default_rng(rows), 64, H, kind, biased=False)
    tokens = np.arange(rows) * 3
    close(launch.embed(mx.array(tokens), table), values[tokens])


def experts(rng, rows, columns, count=4):
    weight = mx.array(rng.standard_normal((count, rows, columns)).astype(np.float32) * columns**-0.5 + 0.02)
    codes, scales = mx.quantize(weight, group_size=32, bits=4, mode="mxfp4")
    values = exact(mx.dequantize(codes, scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32))
    return Experts(codes, scales, normal(rng, count, rows)), values


def test_the_router():
    rng = np.random.default_rng(1)
    router, values = matrix(rng, 32, H, "bf16")
    x = normal(rng, 3, H, scale=3, dtype=mx.float32)
    norm = 1 + normal(rng, H)
    handed_on, got = launch.norm_router(x, norm, EPS, router, mx.float16)
    close(got, normed(x, norm) @ values.T + exact(router.bias))
    close(operands.natural(handed_on), normed(x, norm))


def activated(out):
    gate = np.minimum(out[..., 0::2], LIMIT)
    linear = np.clip(out[..., 1::2], -LIMIT, LIMIT)
    return gate / (1 + np.exp(-1.702 * gate)) * (linear + 1)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_experts_one_by_one_and_grouped(rows):
    rng = np.random.default_rng(rows)
    width = 96
    k = 2
    gate_up, up_values = experts(rng, 2 * width, H)
    down, down_values = experts(rng, ROWS, width)
    x = normal(rng, rows, H, dtype=mx.float16)
    residual = normal(rng, rows, ROWS, dtype=mx.float32)
    logits = normal(rng, rows, 4, dtype=mx.float32)
    slots = mx.arange(4, dtype=mx.int32)
    chosen = np.argsort(-exact(logits), axis=-1)[:, :k]
    inner = activated(np.einsum("tkrc,tc->tkr", up_values[chosen], exact(x)) + exact(gate_up.bias)[chosen])
    handed = operands.chunk_major(x, mx.float16)
    got = launch.expert_gate_up(handed, logits, slots, gate_up, k, LIMIT)
    close(operands.natural(got), inner)

    share = np.exp(np.take_along_axis(exact(logits), chosen, axis=-1))
    share /= share.sum(-1, keepdims=True)

    def mixed(inner):
        each = np.einsum("tkrc,tkc->tkr", down_values[chosen], inner) + exact(down.bias)[chosen]
        return exact(residual) + (each * share[..., None]).sum(1)

    close(launch.expert_down_residual(got, logits, slots, down, residual), mixed(exact(operands.natural(got))))
    close(launch.expert_mlp_grouped(handed, logits, slots, gate_up, down, residual, k=k, limit=LIMIT), mixed(inner))


@pytest.mark.parametrize(("new", "held", "window"), [(9, 600, None), (9, 600, 128), (200, 0, 128), (1, 600, None)])
def test_attention(new, held, window):
    rng = np.random.default_rng(new)
    N = 8
    M = 2
    D = 64
    q = normal(rng, 1, N, new, D, dtype=mx.float32)
    sinks = normal(rng, N)
    k = normal(rng, 1, M, held + new, D)
    v = normal(rng, 1, M, held + new, D) + 1
    age = np.arange(held, held + new)[:, None] - np.arange(held + new)
    scores = np.einsum("mgld,mpd->mglp", exact(q)[0].reshape(M, N // M, new, D), exact(k)[0]) * 0.125
    scores = np.where((age >= 0) & (age < (window or held + new)), scores, -np.inf)
    sink = np.broadcast_to(exact(sinks).reshape(M, N // M, 1, 1), (*scores.shape[:3], 1))
    weights = np.exp(np.concatenate([scores, sink], axis=-1))
    weights = (weights / weights.sum(-1, keepdims=True))[..., :-1]
    want = np.einsum("mglp,mpd->lmgd", weights, exact(v)[0]).reshape(new, N * D)
    layer = Attention(sinks, 0.125, window)
    close(launch.prefill_attention(q, k, v, layer)[0], want)
    if new <= 8:
        tail = mx.zeros((2, 1, M, 64, D), BF16)
        kv = mx.stack([k[0, :, held:], v[0, :, held:]]).transpose(2, 0, 1, 3)
        body = mx.stack([k[:, :, :held], v[:, :, :held]])
        cache = CacheView(body, tail, mx.array([held, 0], mx.int32), held)
        queries = q[0].transpose(1, 0, 2)
        got, _ = launch.decode_attention(queries, kv, [cache], layer, mx.float16)
        close(got, want)
