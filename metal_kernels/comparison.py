"""Both bodies of every operation beside each other on this machine: on a Mac, the shaders on Metal itself.

Knows how to make inputs and what error is allowed; does not know how results are shown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, reference
from metal_kernels.dispatches import Dispatch
from metal_kernels.reference import Attention, CacheView, Dense, Experts

EPS = 1e-5
LIMIT = 7.0
CHOICES = 4
ALLOWED = {mx.float32: 1e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3}
"""The largest error by dtype, as a part of the largest value. A Mac's exp and rsqrt are right to a few units in the
last place; half has 11 bits, bfloat16 8."""
FP4_CODES = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)
Run = Callable[[Dispatch], Sequence[mx.array]]


@dataclass(frozen=True)
class Comparison:
    """What was compared, its error and the allowed error, both as a part of the largest value."""

    what: str
    error: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed  # a NaN does not


def machine() -> str:
    """Return MLX's version and what it computes on, in a line."""
    return f"mlx {version('mlx')}, {'Metal' if mx.metal.is_available() else 'no Metal: its CPU backend'}"


def compare(run: Run, *, hidden: int = 2880, inter: int = 2880, experts: int = 8) -> Iterator[Comparison]:
    """Compare every operation, at the published sizes by default: one row and three, 16-bit and float32 layers.

    Then compare the codes of FP4. ``run`` computes a dispatch. Fewer experts than published will do, because an expert
    is only an address.
    """
    for dtype in (mx.float32, mx.bfloat16):
        layer = _layer(hidden, inter, experts, dtype)
        for rows in (1, 3):
            yield from _operations(run, layer, rows, hidden, f"{rows}x{hidden} {dispatches.name(dtype)}")
        for keys, window in ((300, 128), (600, None)):
            yield _attention(run, dtype, keys, window)
        for q8 in (False, True):
            yield from _dense(run, dtype, q8, hidden)
    yield fp4_codes(run)


def fp4_codes(run: Run) -> Comparison:
    """Compare all sixteen codes of FP4, which shaders decode exactly.

    Codes 1 and 9 (plus and minus a half) pass through subnormal halves. A machine that flushes those to zero loses
    them.
    """
    words = [sum(code << (4 * i) for i, code in enumerate(range(at, at + 8))) for at in (0, 8)]
    weight = np.tile(np.array([*words, *words], np.uint32), (8, 32, 1))
    one = Experts(mx.array(weight), mx.full((8, 32, 1), 127, mx.uint8), mx.zeros((8, 32)))
    logits = mx.zeros((8, 8))
    slots = mx.arange(8, dtype=mx.int32)
    decoded = []
    for start in (0, 8):
        picked = reference.chunk_major(mx.eye(8, 32, k=start)[:, None], mx.float32)
        made = dispatches.expert_down_residual(picked, logits, slots, one, mx.zeros((8, 32)))
        assert made is not None
        decoded.append(np.array(run(made)[0])[:, 0])
    got = np.concatenate(decoded)
    want = np.array(FP4_CODES, np.float32)
    wrong = [code for code in range(16) if got[code] != want[code]]
    what = "fp4 codes" + (f", wrong: {', '.join(map(str, wrong))}" if wrong else "")
    return Comparison(what, float(np.abs(got - want).max() / 6), 0.0)


@dataclass(frozen=True)
class _Layer:
    norm: mx.array
    router: Dense
    slots: mx.array
    gate_up: Experts
    down: Experts


def _layer(hidden: int, inter: int, experts: int, dtype: mx.Dtype) -> _Layer:
    rng = np.random.default_rng(0)

    def projection(rows: int, columns: int) -> Experts:
        return Experts(
            mx.array(rng.integers(0, 1 << 32, (experts, rows, columns // 8), np.uint32)),
            mx.array(rng.integers(112, 122, (experts, rows, columns // 32), np.uint8)),
            _normal(rng, experts, rows, scale=0.5).astype(dtype),
        )

    router = Dense(_normal(rng, experts, hidden, scale=0.05), _normal(rng, experts))
    slots = mx.array(rng.permutation(experts).astype(np.int32))
    return _Layer(
        1 + _normal(rng, hidden, scale=0.3), router, slots, projection(2 * inter, hidden), projection(hidden, inter)
    )


def _operations(run: Run, layer: _Layer, rows: int, hidden: int, where: str) -> Iterator[Comparison]:
    """Compare norm + router and the experts. Plain MLX computes in float32 from the arrays the shader takes, because
    its 16-bit products would have the larger error."""
    x = 3 * mx.array(np.random.default_rng(rows).standard_normal((rows, hidden)).astype(np.float32))
    handed = layer.gate_up.input_dtype
    gate_up = layer.gate_up._replace(bias=layer.gate_up.bias.astype(mx.float32))
    down = layer.down._replace(bias=layer.down.bias.astype(mx.float32))

    made = dispatches.norm_router(x, layer.norm, EPS, layer.router, handed)
    normed, logits = reference.norm_router(x, layer.norm, EPS, layer.router, handed)
    yield _compared(f"norm_router {where}", run, made, [normed, logits])

    made = dispatches.expert_gate_up(normed, logits, layer.slots, layer.gate_up, CHOICES, LIMIT)
    activated = reference.natural(reference.expert_gate_up(normed, logits, layer.slots, gate_up, CHOICES, LIMIT))
    activated = reference.chunk_major(activated, handed)
    yield _compared(f"expert_gate_up {where}", run, made, [activated])

    made = dispatches.expert_down_residual(activated, logits, layer.slots, layer.down, x)
    out = reference.expert_down_residual(activated, logits, layer.slots, down, x)
    yield _compared(f"expert_down_residual {where}", run, made, [out])


def _attention(run: Run, dtype: mx.Dtype, keys: int, window: int | None) -> Comparison:
    """Compare attention of three rows over ``keys`` keys, 20 of them in the tail. Without a window they are split."""
    rng = np.random.default_rng(keys)

    kv, body, tail = (
        _normal(rng, *shape).astype(dtype) for shape in ((3, 2, 8, 64), (2, 1, 8, keys, 64), (2, 1, 8, 64, 64))
    )
    cache = CacheView(body, tail, mx.array([keys - 20, 20], mx.int32), keys)
    layer = Attention(_normal(rng, 64).astype(dtype), 0.125, window)
    q = 2 * _normal(rng, 3, 64, 64)
    made = dispatches.decode_attention(q, kv, cache, layer, mx.float32)
    assert made is not None
    attended, fresh = run(made)
    if dispatches.is_split(attended):
        joined = dispatches.decode_attention_combine(attended, layer.sinks, mx.float32)
        assert joined is not None
        attended = run(joined)[0]
    want, want_fresh = reference.decode_attention(q, kv, cache, layer, mx.float32)
    error = max(_error(attended, want), _error(fresh[..., :23, :], want_fresh[..., :23, :]))
    what = f"window of {window}" if window else f"{keys} keys"
    return Comparison(f"decode_attention {what} {dispatches.name(dtype)}", error, ALLOWED[mx.float32])


def _dense(run: Run, dtype: mx.Dtype, q8: bool, hidden: int) -> Iterator[Comparison]:
    """Compare three rows through a layer's projections and 2,048 rows of a head. Plain MLX computes in float32."""
    rng = np.random.default_rng(hidden)

    def matrix(rows: int, columns: int, biased: bool = True) -> tuple[Dense, Dense]:
        weight = _normal(rng, rows, columns, scale=columns**-0.5)
        bias = _normal(rng, rows) if biased else None
        if q8:
            codes, *affine = mx.quantize(weight, group_size=64, bits=8)
            scales, offsets = (array.astype(dtype) for array in affine)
            layer = Dense(codes, bias, scales, offsets)
            return layer, layer._replace(scales=scales.astype(mx.float32), offsets=offsets.astype(mx.float32))
        weight = weight.astype(dtype)
        return Dense(weight, bias), Dense(weight.astype(mx.float32), bias)

    x = _normal(rng, 3, hidden, scale=3)
    norm = 1 + _normal(rng, hidden, scale=0.3)
    angles = _normal(rng, 3, 32)
    cos = mx.cos(angles)
    sin = mx.sin(angles)
    where = f"3x{hidden} {'q8 ' * q8}{dispatches.name(dtype)}"

    qkv, qkv32 = matrix(80 * 64, hidden)
    made = dispatches.norm_qkv_rope(x, norm, EPS, qkv, cos, sin, heads=64, kv_heads=8)
    q, kv = reference.norm_qkv_rope(x, norm, EPS, qkv32, cos, sin, heads=64, kv_heads=8)
    yield _compared(f"norm_qkv_rope {where}", run, made, [q, kv.astype(dtype)])

    o, o32 = matrix(hidden, 64 * 64)
    attended = _normal(rng, 3, 64 * 64)
    made = dispatches.output_residual(attended, o, x)
    yield _compared(f"output_residual {where}", run, made, [reference.output_residual(attended, o32, x)])

    head, head32 = matrix(2048, hidden, biased=False)
    logits = reference.norm_head(x, norm, EPS, head32)
    yield _compared(f"norm_head {where}", run, dispatches.norm_head(x, norm, EPS, head), [logits])
    best = dispatches.norm_head_argmax(x, norm, EPS, head)
    assert best is not None
    token = dispatches.norm_head_argmax_combine(*run(best))
    assert token is not None
    chosen = mx.take_along_axis(logits, run(token)[0][:, None], axis=-1)  # either of two nearly equal logits will do
    error = _error(chosen, logits.max(axis=-1, keepdims=True))
    yield Comparison(f"norm_head_argmax {where}", error, ALLOWED[mx.float32])


def _compared(what: str, run: Run, made: Dispatch | None, want: list[mx.array]) -> Comparison:
    assert made is not None, what
    found = [Comparison(what, _error(a, b), ALLOWED[b.dtype]) for a, b in zip(run(made), want, strict=True)]
    return max(found, key=lambda one: (not one.agrees, one.error / one.allowed))


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> mx.array:
    return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))


def _error(got: mx.array, want: mx.array) -> float:
    a, b = (np.array(array.astype(mx.float32)).astype(np.float64) for array in (got, want))
    return float(np.abs(a - b).max() / np.abs(b).max())
