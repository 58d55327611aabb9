"""Both bodies of every operation beside each other on this machine: on a Mac, the shaders on Metal itself.

Knows how to make inputs and what error is allowed. Does not know how results are shown, nor what follows from them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, operands, reference
from metal_kernels.dispatches import Dispatch
from metal_kernels.operands import Attention, CacheView, Dense, Experts

ALLOWED = {mx.float32: 1e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3}
"""The largest error by dtype, as a part of the largest value of a row. A Mac's exp and rsqrt are right to a few units
in the last place; half has 11 bits, bfloat16 8."""
ALLOWED_FAR = 3e-4
"""The same where scores are near -200: such a score is itself off by some 1e-5 or more."""
FP4_CODES = (0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6)
ROWS = 3
TAIL = 64
HEAD_BYTES = 24_000_000
"""The most bytes of a head that are compared: 4,096 rows at the published width in 16 bits."""
Run = Callable[[Dispatch], Sequence[mx.array]]


@dataclass(frozen=True)
class Shapes:
    """The sizes, constants and dtypes of a model that decide which shaders it launches.

    ``dtype`` is that of dense matrices, their scales, biases, keys and values; ``norms`` that of norm weights.
    """

    hidden: int = 2880
    inter: int = 2880
    experts: int = 32
    choices: int = 4
    heads: int = 64
    kv_heads: int = 8
    head_dim: int = 64
    window: int | None = 128
    vocabulary: int = 201088
    eps: float = 1e-5
    limit: float = 7.0
    scale: float = 0.125
    dtype: mx.Dtype = mx.bfloat16
    norms: mx.Dtype = mx.bfloat16
    q8: bool = True

    @property
    def handed(self) -> mx.Dtype:
        """The dtype of the rows that experts and the output projection take."""
        return operands.input_dtype(self.dtype)

    @property
    def row_counts(self) -> tuple[int, ...]:
        """How many rows go through a dense matrix at a time. A float32 one is read only once."""
        return (1, ROWS) if self.q8 or self.dtype != mx.float32 else (ROWS,)

    def __str__(self) -> str:
        return ("q8 " if self.q8 else "") + dispatches.name(self.dtype)


PUBLISHED = (
    Shapes(dtype=mx.float32, norms=mx.float32, q8=False, eps=3e-6, limit=1.5),
    Shapes(),
    Shapes(q8=False, experts=128),
)
"""The published sizes. In float32 with another epsilon and limit, so that a shader that has its own is found."""


@dataclass(frozen=True)
class Comparison:
    """What was compared, the shaders that took part, the error, and the error that is allowed, both as a part of the
    largest value of a row."""

    what: str
    shaders: tuple[str, ...]
    error: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed  # a NaN does not


def machine() -> str:
    """Return MLX's version and what it computes on, in a line."""
    backend = "Metal" if mx.metal.is_available() else "CUDA" if mx.cuda.is_available() else "no Metal: its CPU backend"
    return f"mlx {version('mlx')}, {backend}"


def compare(run: Run, shapes: Shapes) -> Iterator[Comparison]:
    """Compare every shader that a model of these shapes launches, and the codes of FP4. ``run`` computes a dispatch.

    Weights are random and of the model's true widths; of the experts there are only as many as a row chooses, because
    an expert is only an address, and of the head 4,096 rows. The rows of a launch differ in what a formula is tried by:
    ordinary x and x near the root of the epsilon; router logits near 0, 200 and -200. Plain MLX computes in float32 and
    each row for itself. An operation that has no shader for these shapes is left out.
    """
    yield from _experts(run, shapes)
    yield from _attention(run, shapes)
    yield from _dense(run, shapes)
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
        picked = operands.chunk_major(mx.eye(8, 32, k=start)[:, None], mx.float32)
        made = dispatches.expert_down_residual(picked, logits, slots, one, mx.zeros((8, 32)))
        assert made is not None
        decoded.append(np.array(run(made)[0])[:, 0])
    got = np.concatenate(decoded)
    want = np.array(FP4_CODES, np.float32)
    wrong = [code for code in range(16) if got[code] != want[code]]
    what = "fp4 codes" + (f", wrong: {', '.join(map(str, wrong))}" if wrong else "")
    return Comparison(what, ("expert_down_residual",), float(np.abs(got - want).max() / 6), 0.0)


def _rows_of_x(shapes: Shapes) -> mx.array:
    x = _normal(np.random.default_rng(1), ROWS, shapes.hidden)
    return x * mx.array([[3.0], [1e-3], [3.0]])


def _experts(run: Run, shapes: Shapes) -> Iterator[Comparison]:
    """Compare norm + router and the experts."""
    rng = np.random.default_rng(0)
    hidden, inter, experts, handed = shapes.hidden, shapes.inter, shapes.experts, shapes.handed

    def projection(rows: int, columns: int) -> tuple[Experts, Experts]:
        held = Experts(
            mx.array(rng.integers(0, 1 << 32, (shapes.choices, rows, columns // 8), np.uint32)),
            mx.array(rng.integers(112, 122, (shapes.choices, rows, columns // 32), np.uint8)),
            _normal(rng, shapes.choices, rows, scale=0.5).astype(shapes.dtype),
        )
        return held, held._replace(bias=held.bias.astype(mx.float32))

    norm = (1 + _normal(rng, hidden, scale=0.3)).astype(shapes.norms)
    router = Dense(
        _normal(rng, experts, hidden, scale=0.05).astype(shapes.dtype), _normal(rng, experts).astype(shapes.dtype)
    )
    slots = mx.array((rng.permutation(experts) % shapes.choices).astype(np.int32))
    gate_up, gate_up32 = projection(2 * inter, hidden)
    down, down32 = projection(hidden, inter)
    x = _rows_of_x(shapes)
    routed = _normal(rng, ROWS, experts, scale=2) + mx.array([[0.0], [200.0], [-200.0]])

    for rows in (1, ROWS):
        where = f"{rows}x{hidden} {dispatches.name(shapes.dtype)}"
        some, logits = x[:rows], routed[:rows]
        made = dispatches.norm_router(some, norm, shapes.eps, router, handed)
        want = _row_by_row(lambda x: reference.norm_router(x, norm, shapes.eps, router, handed), some)
        yield from _compared(f"norm_router {where}", run, made, want)

        normed = want[0]
        made = dispatches.expert_gate_up(normed, logits, slots, gate_up, shapes.choices, shapes.limit)
        (activated,) = _row_by_row(
            lambda n, g: (reference.expert_gate_up(n, g, slots, gate_up32, shapes.choices, shapes.limit),),
            normed,
            logits,
        )
        activated = operands.chunk_major(operands.natural(activated), handed)
        yield from _compared(f"expert_gate_up {where}", run, made, [activated])

        made = dispatches.expert_down_residual(activated, logits, slots, down, some)
        out = _row_by_row(
            lambda a, g, r: (reference.expert_down_residual(a, g, slots, down32, r),), activated, logits, some
        )
        yield from _compared(f"expert_down_residual {where}", run, made, out)

    pairs = ROWS * shapes.choices
    slot = mx.array(np.sort(rng.integers(0, shapes.choices, pairs)).astype(np.int32))
    product = _normal(rng, pairs, 2 * inter, scale=5).astype(shapes.dtype)
    made = dispatches.grouped_swiglu(product, slot, gate_up.bias, shapes.limit)
    (activated,) = _row_by_row(
        lambda p, s: (reference.grouped_swiglu(p.astype(mx.float32), s, gate_up32.bias, shapes.limit),), product, slot
    )
    yield from _compared(f"grouped_swiglu {dispatches.name(shapes.dtype)}", run, made, [activated.astype(shapes.dtype)])
    place = mx.array(rng.permutation(pairs).reshape(ROWS, shapes.choices).astype(np.uint32))
    weights = mx.softmax(_normal(rng, ROWS, shapes.choices), axis=-1)
    grouped = _normal(rng, pairs, hidden).astype(shapes.dtype)
    made = dispatches.grouped_sum(grouped, place, weights, x)
    want = [reference.grouped_sum(grouped, place, weights, x)]
    yield from _compared(f"grouped_sum {dispatches.name(shapes.dtype)}", run, made, want)

    loud = norm * 60_000  # a normed row that half cannot hold
    made = dispatches.norm_router(x[:1], loud, shapes.eps, router, handed)
    want = list(reference.norm_router(x[:1], loud, shapes.eps, router, handed))
    yield from _compared(f"norm_router past half {dispatches.name(shapes.dtype)}", run, made, want)


def _attention(run: Run, shapes: Shapes) -> Iterator[Comparison]:
    """Compare attention of three rows: over a window, over keys in one piece with scores near 0 and near -200, and over
    keys that are split, joined in a threadgroup and by a second shader. Half of the sinks are 200 above."""
    inside = 2 * dispatches.SPLIT_KEYS + 88
    split = dispatches.INSIDE * dispatches.SPLIT_KEYS + 88
    every = (300, shapes.window, 0), (100, None, 0), (100, None, -200), (inside, None, 0), (split, None, 0)
    for keys, window, far in every:
        if keys == 300 and window is None:
            continue
        rng = np.random.default_rng(keys)
        heads, kv_heads, dim = shapes.heads, shapes.kv_heads, shapes.head_dim
        kv, body, tail = (
            _normal(rng, *shape)
            for shape in ((ROWS, 2, kv_heads, dim), (2, 1, kv_heads, keys, dim), (2, 1, kv_heads, TAIL, dim))
        )
        q = 2 * _normal(rng, ROWS, heads, dim)
        sinks = mx.where(mx.arange(heads) % 2 == 0, 200.0, _normal(rng, heads))
        if far:  # a dimension in which every key is 1 and every query the same
            first = mx.arange(dim) == 0
            q = mx.where(first, far / shapes.scale, q)
            kv, body, tail = (mx.where(first, 1.0, part) for part in (kv, body, tail))
            sinks = mx.full((heads,), far + 1.0)
        kv, body, tail, sinks = (array.astype(shapes.dtype) for array in (kv, body, tail, sinks))
        cache = CacheView(body, tail, mx.array([keys - 20, 20], mx.int32), keys)
        layer = Attention(sinks, shapes.scale, window)
        made = dispatches.decode_attention(q, kv, cache, layer, mx.float32)
        if made is None:
            continue
        shaders: tuple[str, ...] = ("decode_attention",)
        attended, fresh = run(made)
        if dispatches.is_split(attended):
            joined = dispatches.decode_attention_combine(attended, layer.sinks, mx.float32)
            assert joined is not None
            attended = run(joined)[0]
            shaders += ("decode_attention_combine",)
        want, want_fresh = reference.decode_attention(q, kv, cache, layer, mx.float32)
        error = max(_error(attended, want), _error(fresh[..., :23, :], want_fresh[..., :23, :]))
        what = f"window of {window}" if window else f"{keys} keys" + (f" at {far}" if far else "")
        what = f"decode_attention {what} {dispatches.name(shapes.dtype)}"
        yield Comparison(what, shaders, error, ALLOWED_FAR if far else ALLOWED[mx.float32])


def _dense(run: Run, shapes: Shapes) -> Iterator[Comparison]:
    """Compare a layer's projections and the first rows of a head."""
    rng = np.random.default_rng(shapes.hidden)
    hidden, dtype = shapes.hidden, shapes.dtype

    def matrix(rows: int, columns: int, biased: bool = True) -> tuple[Dense, Dense]:
        weight = _normal(rng, rows, columns, scale=columns**-0.5)
        bias = _normal(rng, rows).astype(dtype) if biased else None
        bias32 = None if bias is None else bias.astype(mx.float32)
        if shapes.q8:
            codes, *affine = mx.quantize(weight, group_size=64, bits=8)
            scales, offsets = (array.astype(dtype) for array in affine)
            return Dense(codes, bias, scales, offsets), Dense(
                codes, bias32, scales.astype(mx.float32), offsets.astype(mx.float32)
            )
        weight = weight.astype(dtype)
        return Dense(weight, bias), Dense(weight.astype(mx.float32), bias32)

    heads, kv_heads, dim = shapes.heads, shapes.kv_heads, shapes.head_dim
    norm = (1 + _normal(rng, hidden, scale=0.3)).astype(shapes.norms)
    norm32 = norm.astype(mx.float32)
    angles = _normal(rng, ROWS, dim // 2)
    cosines, sines = mx.cos(angles), mx.sin(angles)
    x = _rows_of_x(shapes)
    qkv, qkv32 = matrix((heads + 2 * kv_heads) * dim, hidden)
    o, o32 = matrix(hidden, heads * dim)
    attended = _normal(rng, ROWS, heads * dim).astype(shapes.handed)
    fitting = HEAD_BYTES // (hidden * (1 if shapes.q8 else dtype.size)) // 512 * 512
    head, head32 = matrix(min(shapes.vocabulary, max(fitting, 512), 4096), hidden, biased=False)
    for rows in shapes.row_counts:
        where = f"{rows}x{hidden} {shapes}"
        some, cos, sin = x[:rows], cosines[:rows], sines[:rows]
        made = dispatches.norm_qkv_rope(some, norm, shapes.eps, qkv, cos, sin, heads=heads, kv_heads=kv_heads)
        q, kv = _row_by_row(
            lambda x, cos, sin: reference.norm_qkv_rope(
                x, norm32, shapes.eps, qkv32, cos, sin, heads=heads, kv_heads=kv_heads
            ),
            some,
            cos,
            sin,
        )
        yield from _compared(f"norm_qkv_rope {where}", run, made, [q, kv.astype(dtype)])

        made = dispatches.output_residual(attended[:rows], o, some)
        want = _row_by_row(
            lambda a, r: (reference.output_residual(a.astype(mx.float32), o32, r),), attended[:rows], some
        )
        yield from _compared(f"output_residual {where}", run, made, want)

        (logits,) = _row_by_row(lambda x: (reference.norm_head(x, norm32, shapes.eps, head32),), some)
        if rows == ROWS:
            yield from _compared(
                f"norm_head {where}", run, dispatches.norm_head(some, norm, shapes.eps, head), [logits]
            )
        best = dispatches.norm_head_argmax(some, norm, shapes.eps, head)
        if best is None:
            continue
        token = dispatches.norm_head_argmax_combine(*run(best))
        assert token is not None
        chosen, largest = run(token)
        most = logits.max(axis=-1, keepdims=True)
        picked = mx.take_along_axis(logits, mx.minimum(chosen, logits.shape[1] - 1)[:, None], axis=-1)
        error = max(_error(picked, most), _error(largest[:, None], most))  # either of two nearly equal logits will do
        shaders = ("norm_head_argmax", "norm_head_argmax_combine")
        yield Comparison(f"norm_head_argmax {where}", shaders, error, ALLOWED[mx.float32])


def _compared(what: str, run: Run, made: Dispatch | None, want: Sequence[mx.array]) -> Iterator[Comparison]:
    if made is not None:
        found = []
        for got, wanted in zip(run(made), want, strict=True):
            found.append(Comparison(what, (made.shader,), _error(got, wanted), ALLOWED[wanted.dtype]))
        yield max(found, key=lambda one: (not one.agrees, one.error / one.allowed))


def _row_by_row(operation: Callable[..., Sequence[mx.array]], *arrays: mx.array) -> list[mx.array]:
    """Return the outputs of an operation that is given each row alone, so that what a row is compared with does not
    depend on how MLX multiplies several rows."""
    each = [operation(*(array[row : row + 1] for array in arrays)) for row in range(len(arrays[0]))]
    return [mx.concatenate(list(parts)) for parts in zip(*each, strict=True)]


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> mx.array:
    return mx.array((scale * rng.standard_normal(shape, np.float32)).astype(np.float32))


def _error(got: mx.array, want: mx.array) -> float:
    """Return the largest difference in a row as a part of the row's largest value. A row is all that lies under the
    first axis."""
    a, b = (np.array(array.astype(mx.float32)).astype(np.float64).reshape(len(array), -1) for array in (got, want))
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())
