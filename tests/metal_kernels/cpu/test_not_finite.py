"""What is not finite in plain MLX is not finite in the library either: it hides no NaN, and meets none with a crash.

The engine ends a reply whose numbers are not finite. An attention that turns NaN into 0 would keep it alive.
"""

from collections.abc import Callable
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import reference
from metal_kernels.cpu import library, operations
from metal_kernels.reference import Attention, CacheView, Dense, Experts
from tests.metal_kernels.cpu.trials import Draw
from tests.metal_kernels.shaders.common import EPS, F32
from tests.metal_kernels.shaders.experts import LIMIT
from tests.support.native import architectures, using

pytestmark = pytest.mark.skipif(not architectures(), reason="there is no native library")

T, H, V, E, K = 5, 96, 70, 6, 3
HEADS, KV_HEADS, D = 4, 2, 32
BODY, TAIL = 520, 5
INFINITE = (np.nan, np.inf, -np.inf)
Arrays = dict[str, mx.array]


@pytest.fixture(params=library.ARCHITECTURES)
def architecture(request):
    if request.param not in architectures():
        pytest.skip("not on this machine")
    with using(request.param):
        yield request.param


def arrays(rows: int) -> Arrays:
    """Return the inputs of all operations by name. There are as many ``rows``."""
    draw = Draw(rows)
    codes, scales, offsets = mx.quantize(draw.normal(V, 128), group_size=64, bits=8)
    up, down = draw.mixture(E, 2 * 32, H), draw.mixture(E, H, 32)
    return {
        "x": draw.normal(rows, H),
        "x of 128": draw.normal(rows, 128),
        "norm": 1 + draw.normal(H, scale=0.3),
        "cos": draw.normal(rows, D // 2),
        "qkv": draw.normal((HEADS + 2 * KV_HEADS) * D, H),
        "qkv bias": draw.normal((HEADS + 2 * KV_HEADS) * D),
        "o": draw.normal(V, H),
        "o bias": draw.normal(V),
        "residual": draw.normal(rows, V),
        "router": draw.normal(E, H),
        "router bias": draw.normal(E),
        "codes": codes,
        "scales": scales,
        "offsets": offsets,
        "head": draw.normal(V, H),
        "normed": reference.chunk_major(draw.normal(rows, H), F32),
        "logits": draw.normal(rows, E),
        "slots": mx.array(draw.rng.permutation(E).astype(np.int32)),
        "up": up.weight,
        "up scales": up.scales,
        "up bias": up.bias,
        "activated": reference.chunk_major(draw.normal(rows, K, 32), F32),
        "down": down.weight,
        "down scales": down.scales,
        "down bias": down.bias,
        "q": draw.normal(rows, HEADS, D),
        "kv": draw.normal(rows, 2, KV_HEADS, D),
        "body": draw.normal(2, 1, KV_HEADS, BODY, D),
        "tail": draw.normal(2, 1, KV_HEADS, 64, D),
        "sinks": draw.normal(HEADS),
    }


def experts(a: Arrays, name: str) -> Experts:
    return Experts(a[name], a[f"{name} scales"], a[f"{name} bias"])


def attention(a: Arrays) -> Attention:
    return Attention(a["sinks"], 0.2, None)


def prefill(m: ModuleType, a: Arrays):
    keys = mx.concatenate([a["body"][:, :, :, :40], a["kv"].transpose(1, 2, 0, 3)[:, None]], axis=3)
    return m.prefill_attention(a["q"].transpose(1, 0, 2)[None], keys[0], keys[1], attention(a))


def decode(m: ModuleType, a: Arrays):
    cache = CacheView(a["body"], a["tail"], mx.array([BODY, TAIL], mx.int32), BODY + TAIL)
    if m is reference:
        return m.decode_attention(a["q"], a["kv"], cache, attention(a), F32)[0]
    return m.decode_attention(a["q"], a["kv"], [cache], attention(a))[0]


def q8(a: Arrays) -> Dense:
    return Dense(a["codes"], None, a["scales"], a["offsets"])


CALLS: dict[str, tuple[Callable[[ModuleType, Arrays], object], tuple[str, ...]]] = {
    "norm_qkv_rope": (
        lambda m, a: m.norm_qkv_rope(
            a["x"], a["norm"], EPS, Dense(a["qkv"], a["qkv bias"]), a["cos"], a["cos"], heads=HEADS, kv_heads=KV_HEADS
        ),
        ("x", "norm", "qkv", "qkv bias", "cos"),
    ),
    "output_residual": (
        lambda m, a: m.output_residual(a["x"], Dense(a["o"], a["o bias"]), a["residual"]),
        ("x", "o", "o bias", "residual"),
    ),
    "output_residual in 8 bits": (
        lambda m, a: m.output_residual(a["x of 128"], q8(a), a["residual"]),
        ("x of 128", "scales", "offsets"),
    ),
    "norm_router": (
        lambda m, a: m.norm_router(a["x"], a["norm"], EPS, Dense(a["router"], a["router bias"]), F32),
        ("x", "norm", "router", "router bias"),
    ),
    "norm_head": (lambda m, a: m.norm_head(a["x"], a["norm"], EPS, Dense(a["head"])), ("x", "norm", "head")),
    "embed": (lambda m, a: m.embed(mx.arange(V), q8(a)), ("scales", "offsets")),
    "expert_gate_up": (
        lambda m, a: m.expert_gate_up(a["normed"], a["logits"], a["slots"], experts(a, "up"), K, LIMIT),
        ("normed", "up bias"),
    ),
    "expert_down_residual": (
        lambda m, a: m.expert_down_residual(a["activated"], a["logits"], a["slots"], experts(a, "down"), a["residual"]),
        ("activated", "down bias", "residual", "logits"),
    ),
    "expert_mlp_grouped": (
        lambda m, a: m.expert_mlp_grouped(
            *(a[name] for name in ("normed", "logits", "slots")), *(experts(a, name) for name in ("up", "down")),
            a["residual"], k=K, limit=LIMIT,
        ),
        ("normed", "up bias", "down bias", "residual", "logits"),
    ),
    "prefill_attention": (prefill, ("q", "kv", "body", "sinks")),
    "decode_attention": (decode, ("q", "kv", "body", "tail", "sinks")),
}


def finite(out) -> np.ndarray:
    return np.concatenate([np.isfinite(np.array(one)).ravel() for one in ((out,) if isinstance(out, mx.array) else out)])


@pytest.mark.parametrize("rows", [1, T])
@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_finite_in_plain_mlx_is_not_finite_here(architecture, name, value, rows):
    call, places = CALLS[name]
    planted = 0
    for place in places:
        for at in ("first", "last", "all"):
            a = arrays(rows) | {"residual": mx.zeros((rows, H if name.startswith("expert") else V))}
            spoilt = np.array(a[place])
            spoilt.flat[{"first": 0, "last": -1, "all": slice(None)}[at]] = value
            a[place] = mx.array(spoilt)
            plain, own = finite(call(reference, a)), finite(call(operations, a))
            planted += not plain.all()
            assert not (own & ~plain).any(), f"{value} in {place}, {at}: {(own & ~plain).sum()} of {own.size} are finite"
    assert planted, "nothing was spoilt"
