"""One call of each operation, with arrays by name, so that one of them can be replaced."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import mlx.core as mx
import numpy as np

from metal_kernels import launch, operands, reference
from metal_kernels.operands import Attention, CacheView, Dense, Experts
from tests.metal_kernels.cpu.trials.common import F32, Draw
from tests.metal_kernels.shaders.common import EPS
from tests.metal_kernels.shaders.experts import LIMIT

H, V, E, K = 96, 70, 6, 3
HEADS, KV_HEADS, D = 4, 2, 32
BODY, TAIL = 520, 5
Arrays = dict[str, mx.array]


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
        "stream": draw.normal(rows, H),
        "router": draw.normal(E, H),
        "router bias": draw.normal(E),
        "codes": codes,
        "scales": scales,
        "offsets": offsets,
        "head": draw.normal(V, H),
        "normed": operands.chunk_major(draw.normal(rows, H), F32),
        "logits": draw.normal(rows, E),
        "slots": mx.array(draw.rng.permutation(E).astype(np.int32)),
        "up": up.weight,
        "up scales": up.scales,
        "up bias": up.bias,
        "activated": operands.chunk_major(draw.normal(rows, K, 32), F32),
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
    out = m.decode_attention(a["q"], a["kv"], [cache], attention(a), *([F32] if m is launch else []))
    return None if out is None else out[0]


def gate_up(m: ModuleType, a: Arrays) -> mx.array | None:
    out = m.expert_gate_up(a["normed"], a["logits"], a["slots"], experts(a, "up"), K, LIMIT)
    return None if out is None else operands.natural(out)


def greedy(m: ModuleType, a: Arrays) -> mx.array | None:
    out = m.norm_head_argmax(a["x"], a["norm"], EPS, Dense(a["head"]))
    return None if out is None else out[0]


def q8(a: Arrays) -> Dense:
    return Dense(a["codes"], None, a["scales"], a["offsets"])


@dataclass(frozen=True)
class Call:
    """An operation of ``launch``, ``reference`` or the native ``operations``, on arrays of these names.

    ``rows`` are what it computes with for once, and ``weights`` what a model keeps."""

    make: Callable[[ModuleType, Arrays], mx.array | tuple[mx.array, ...] | None]
    rows: tuple[str, ...]
    weights: tuple[str, ...]

    def outputs(self, module: ModuleType, a: Arrays) -> list[np.ndarray] | None:
        """Return what the operation makes, or None if the library does not take the arrays."""
        out = self.make(module, a)
        if out is None:
            return None
        return [np.array(array.astype(F32)) for array in ((out,) if isinstance(out, mx.array) else out)]


CALLS = {
    "norm_qkv_rope": Call(
        lambda m, a: m.norm_qkv_rope(
            a["x"], a["norm"], EPS, Dense(a["qkv"], a["qkv bias"]), a["cos"], a["cos"], heads=HEADS, kv_heads=KV_HEADS
        ),
        ("x", "norm", "cos"),
        ("qkv", "qkv bias"),
    ),
    "output_residual": Call(
        lambda m, a: m.output_residual(a["x"], Dense(a["o"], a["o bias"]), a["residual"]),
        ("x", "residual"),
        ("o", "o bias"),
    ),
    "output_residual in 8 bits": Call(
        lambda m, a: m.output_residual(a["x of 128"], q8(a), a["residual"]),
        ("x of 128", "residual"),
        ("codes", "scales", "offsets"),
    ),
    "norm_router": Call(
        lambda m, a: m.norm_router(a["x"], a["norm"], EPS, Dense(a["router"], a["router bias"]), F32),
        ("x", "norm"),
        ("router", "router bias"),
    ),
    "norm_head": Call(lambda m, a: m.norm_head(a["x"], a["norm"], EPS, Dense(a["head"])), ("x", "norm"), ("head",)),
    "norm_head_argmax": Call(greedy, ("x", "norm"), ("head",)),
    "embed": Call(lambda m, a: m.embed(mx.arange(V), q8(a)), (), ("codes", "scales", "offsets")),
    "rope_tables": Call(lambda m, a: m.rope_tables(a["norm"], mx.arange(9)), ("norm",), ()),
    "expert_gate_up": Call(gate_up, ("normed",), ("logits", "slots", "up", "up scales", "up bias")),
    "expert_down_residual": Call(
        lambda m, a: m.expert_down_residual(a["activated"], a["logits"], a["slots"], experts(a, "down"), a["stream"]),
        ("activated", "stream"),
        ("logits", "slots", "down", "down scales", "down bias"),
    ),
    "expert_mlp_grouped": Call(
        lambda m, a: m.expert_mlp_grouped(
            *(a[name] for name in ("normed", "logits", "slots")),
            *(experts(a, name) for name in ("up", "down")),
            a["stream"],
            k=K,
            limit=LIMIT,
        ),
        ("normed", "stream"),
        ("logits", "slots", "up", "up scales", "up bias", "down", "down scales", "down bias"),
    ),
    "prefill_attention": Call(prefill, ("q", "kv", "body"), ("sinks",)),
    "decode_attention": Call(decode, ("q", "kv", "body", "tail"), ("sinks",)),
}
