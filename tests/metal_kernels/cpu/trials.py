"""Random calls of each operation, and what it makes of them by definition, in float64.

A trial is found again by its operation and number. Sizes lie around those at which the library goes another way: rows
of a tile and of a task, pieces of columns, keys of a step, sequences that are split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from metal_kernels import reference
from metal_kernels.cpu import operations as native
from metal_kernels.reference import Attention, CacheView, Dense, Experts
from tests.metal_kernels.shaders import dense, experts
from tests.metal_kernels.shaders.common import EPS, exact
from tests.metal_kernels.shaders.experts import LIMIT

F32 = mx.float32
KINDS = ("float32", "bfloat16", "q8 beside float32", "q8 beside bfloat16")
ROWS = (1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 24, 25, 31, 33, 64)
MANY = (95, 96, 97, 130, 193, 511, 512, 513, 600)
COLUMNS = (32, 64, 96, 128, 192, 320, 736, 768, 800, 1536, 1568, 1600, 2880)
TAIL = 64
SCORES = 8.0
"""The sum of a score's products, without signs, up to which its rounding is below that of other sums."""


@dataclass(frozen=True)
class Made:
    """What an operation made, or should make. ``size`` is what errors are parts of: the largest value, or that which
    one of its values is expected to have, if chance has made all of them small."""

    values: np.ndarray
    size: float


@dataclass(frozen=True)
class Trial:
    """A call. ``native`` and ``plain`` make it in the library and in plain MLX, with matrices in float32."""

    about: str
    native: Callable[[], list[np.ndarray]]
    plain: Callable[[], list[np.ndarray]]
    want: list[Made]

    def error(self, got: list[np.ndarray]) -> float:
        """Return the largest error, as a part of the largest value. It is NaN if a value is."""
        assert [one.shape for one in got] == [made.values.shape for made in self.want]
        return max(float(np.abs(one - made.values).max()) / made.size for one, made in zip(got, self.want, strict=True))


class Draw:
    """Sizes and arrays of one trial."""

    def __init__(self, *seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def one_of(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def whole(self, first: int, last: int) -> int:
        return int(self.rng.integers(first, last + 1))

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def rows(self, columns: int) -> int:
        """Return a number of rows, and seldom one of hundreds."""
        return self.one_of(*MANY) if columns <= 128 and self.chance(0.15) else self.one_of(*ROWS)

    def near(self, *multiples: int, most: int) -> int:
        """Return a number at, just below or just above a multiple of one of these."""
        step = self.one_of(*multiples)
        return max(1, step * self.whole(1, max(1, most // step)) + self.whole(-1, 1))

    def normal(self, *shape: int, scale: float = 1.0) -> mx.array:
        return mx.array((scale * self.rng.standard_normal(shape)).astype(np.float32))

    def matrix(self, rows: int, columns: int, kind: str, biased: bool = True) -> Dense:
        """Return a layer of this kind, seldom without a bias."""
        weight = self.normal(rows, columns, scale=columns**-0.5)
        bias = self.normal(rows, scale=0.5) if biased and not self.chance(0.2) else None
        if kind == "float32":
            return Dense(weight, bias)
        if kind == "bfloat16":
            return Dense(weight.astype(mx.bfloat16), bias)
        codes, *affine = mx.quantize(weight, group_size=64, bits=8)
        dtype = F32 if kind.endswith("float32") else mx.bfloat16
        return Dense(codes, bias, *(array.astype(dtype) for array in affine))

    def kind(self, columns: int) -> str:
        return self.one_of(*KINDS[: 2 if columns % 64 else 4])

    def mixture(self, slots: int, rows: int, columns: int) -> Experts:
        top = 130 - round(np.log2(columns) / 2)  # products to about 20, so that SwiGLU's clamps are met
        return Experts(
            mx.array(self.rng.integers(0, 1 << 32, (slots, rows, columns // 8), np.uint32)),
            mx.array(self.rng.integers(top - 10, top, (slots, rows, columns // 32), np.uint8)),
            self.normal(slots, rows, scale=0.5),
        )


def wide(layer: Dense) -> Dense:
    """Return the same layer with its values in float32, in which plain MLX then computes."""
    if layer.scales is None or layer.offsets is None:
        return layer._replace(weight=layer.weight.astype(F32))
    return layer._replace(scales=layer.scales.astype(F32), offsets=layer.offsets.astype(F32))


def made(values: np.ndarray, expected: float = 0.0) -> Made:
    return Made(values, max(float(np.abs(values).max()), expected))


def product(x: np.ndarray, layer: Dense) -> tuple[np.ndarray, float]:
    """Return x [T, C] times the layer's matrix, with its bias, and the value that is expected of a sum."""
    weight = dense.values(layer)
    expected = float(np.sqrt((x**2) @ (weight**2).T).max())
    return x @ weight.T + (0 if layer.bias is None else exact(layer.bias)), expected


def normed(x: mx.array, norm: mx.array) -> np.ndarray:
    row = exact(x)
    return row / np.sqrt((row**2).mean(-1, keepdims=True) + EPS) * exact(norm)


def results(out: mx.array | Sequence[mx.array] | None) -> list[np.ndarray]:
    assert out is not None, "not taken"
    return [exact(array) for array in ((out,) if isinstance(out, mx.array) else out)]


def norm_qkv_rope(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    kv_heads = draw.one_of(1, 1, 2, 3, 8)
    heads = kv_heads * draw.one_of(1, 2, 3, 4, 8)
    D = draw.one_of(32, 64, 64, 96, 128)
    kind = draw.kind(H)
    qkv = draw.matrix((heads + 2 * kv_heads) * D, H, kind)
    x = draw.normal(T, H, scale=draw.one_of(0.01, 3, 100))
    norm = 1 + draw.normal(H, scale=0.3)
    angle = draw.normal(T, D // 2, scale=3)
    cos, sin = mx.cos(angle), mx.sin(angle)
    mx.eval(x, norm, cos, sin)
    out, expected = product(normed(x, norm), qkv)
    turned, value = np.split(out.reshape(T, -1, D), [heads + kv_heads], axis=1)
    first, second = np.split(turned, 2, axis=-1)
    c, s = exact(cos)[:, None], exact(sin)[:, None]
    turned = np.concatenate([first * c - second * s, second * c + first * s], axis=-1)
    want = turned[:, :heads], np.stack([turned[:, heads:], value], axis=1)
    sizes = {"heads": heads, "kv_heads": kv_heads}
    return Trial(
        f"T={T} H={H} heads={heads} kv_heads={kv_heads} D={D}, {kind}",
        lambda: results(native.norm_qkv_rope(x, norm, EPS, qkv, cos, sin, **sizes)),
        lambda: results(reference.norm_qkv_rope(x, norm, EPS, wide(qkv), cos, sin, **sizes)),
        [made(one, expected) for one in want],
    )


def output_residual(draw: Draw) -> Trial:
    C = draw.one_of(*COLUMNS, 4096)
    T = draw.rows(C)
    R = draw.near(4, 16, 64, most=300)
    kind = draw.kind(C)
    o = draw.matrix(R, C, kind)
    attended = draw.normal(T, C)
    residual = draw.normal(T, R)
    out, expected = product(exact(attended), o)
    return Trial(
        f"T={T} C={C} R={R}, {kind}",
        lambda: results(native.output_residual(attended, o, residual)),
        lambda: results(reference.output_residual(attended, wide(o), residual)),
        [made(exact(residual) + out, expected)],
    )


def norm_router(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    E = draw.one_of(1, 2, 3, 8, 31, 32, 33, 128)
    router = draw.matrix(E, H, draw.one_of(*KINDS[:2]))
    x = draw.normal(T, H, scale=3)
    norm = 1 + draw.normal(H, scale=0.3)
    row = normed(x, norm)
    logits, expected = product(row, router)

    def both(out: tuple[mx.array, mx.array] | None) -> list[np.ndarray]:
        assert out is not None
        return [experts.unchunked(out[0]), exact(out[1])]

    return Trial(
        f"T={T} H={H} E={E}, {router.dtype}",
        lambda: both(native.norm_router(x, norm, EPS, router, F32)),
        lambda: both(reference.norm_router(x, norm, EPS, router, F32)),
        [made(row), made(logits, expected)],
    )


def routing(draw: Draw, T: int) -> tuple[mx.array, mx.array, int]:
    """Return logits with many ties, a slot for each expert, and K."""
    E = draw.one_of(1, 2, 3, 4, 8, 32, 33, 128) if T < 90 else draw.one_of(1, 2, 3, 8)
    logits = np.array(draw.normal(T, E, scale=2))
    logits[::2] = np.round(logits[::2])
    return mx.array(logits), mx.array(draw.rng.permutation(E).astype(np.int32)), draw.whole(1, min(8, E))


def choice(logits: mx.array, slots: mx.array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the slots of the experts that each row chooses, and their shares, [T, k]."""
    every = [experts.chosen(row, k) for row in exact(logits)]
    return np.array(slots)[np.array([ids for ids, _ in every])], np.array([share for _, share in every])


def through(rows: np.ndarray, slot: np.ndarray, layer: Experts) -> np.ndarray:
    """Multiply rows [T, k, C], or [T, 1, C], by the matrix in each slot [T, k] and add its bias, to [T, k, R]."""
    out = np.empty((*slot.shape, layer.weight.shape[1]))
    wide_rows = np.broadcast_to(rows, (*slot.shape, rows.shape[-1]))
    for one in np.unique(slot):
        out[slot == one] = wide_rows[slot == one] @ experts.values(layer, int(one)).T + exact(layer.bias[int(one)])
    return out


def expert_gate_up(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    inner = draw.one_of(32, 64, 96, 160, 352)
    logits, slots, k = routing(draw, T)
    up = draw.mixture(logits.shape[1], 2 * inner, H)
    x = draw.normal(T, H)
    handed = reference.chunk_major(x, F32)
    arguments = handed, logits, slots, up, k, LIMIT

    def natural(out: mx.array | None) -> list[np.ndarray]:
        assert out is not None
        return [experts.unchunked(out)]

    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k}",
        lambda: natural(native.expert_gate_up(*arguments)),
        lambda: natural(reference.expert_gate_up(*arguments)),
        [made(experts.swiglu(through(exact(x)[:, None], choice(logits, slots, k)[0], up)))],
    )


def expert_down_residual(draw: Draw) -> Trial:
    inner = draw.one_of(*COLUMNS)
    T = draw.rows(inner)
    H = draw.one_of(32, 64, 96, 160, 352)
    logits, slots, k = routing(draw, T)
    down = draw.mixture(logits.shape[1], H, inner)
    activated = draw.normal(T, k, inner)
    residual = draw.normal(T, H, scale=5)
    arguments = reference.chunk_major(activated, F32), logits, slots, down, residual
    slot, share = choice(logits, slots, k)
    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k}",
        lambda: results(native.expert_down_residual(*arguments)),
        lambda: results(reference.expert_down_residual(*arguments)),
        [made(exact(residual) + (through(exact(activated), slot, down) * share[..., None]).sum(1))],
    )


def expert_mlp_grouped(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS[:-1])
    T = draw.one_of(*MANY) if H <= 128 and draw.chance(0.3) else draw.rows(H)
    inner = draw.one_of(32, 64, 96, 160)
    logits, slots, k = routing(draw, T)
    up = draw.mixture(logits.shape[1], 2 * inner, H)
    down = draw.mixture(logits.shape[1], H, inner)
    x = draw.normal(T, H)
    residual = draw.normal(T, H, scale=5)
    arguments = reference.chunk_major(x, F32), logits, slots, up, down, residual
    slot, share = choice(logits, slots, k)
    activated = experts.swiglu(through(exact(x)[:, None], slot, up))
    each = through(activated, slot, down) * share[..., None]
    return Trial(
        f"T={T} H={H} I={inner} E={logits.shape[1]} K={k}",
        lambda: results(native.expert_mlp_grouped(*arguments, k=k, limit=LIMIT)),
        lambda: results(reference.expert_mlp_grouped(*arguments, k=k, limit=LIMIT)),
        [made(exact(residual) + each.sum(1))],
    )


def norm_head(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    V = draw.near(4, 16, 64, most=900)
    kind = draw.kind(H)
    head = draw.matrix(V, H, kind, biased=False)
    x = draw.normal(T, H, scale=3)
    norm = 1 + draw.normal(H, scale=0.3)
    return Trial(
        f"T={T} H={H} V={V}, {kind}",
        lambda: results(native.norm_head(x, norm, EPS, head)),
        lambda: results(reference.norm_head(x, norm, EPS, wide(head))),
        [made(*product(normed(x, norm), head))],
    )


def norm_head_argmax(draw: Draw) -> Trial:
    """What is compared is how far the logits of the tokens are below the largest ones: nothing. Every fifth row of the
    head is one and the same, so that there are equal logits."""
    H = draw.one_of(*COLUMNS)
    T = draw.rows(H)
    V = draw.near(4, 16, 64, most=900)
    kind = draw.kind(H)
    places = np.arange(V)
    repeated = mx.array(np.where(places % 5 == 1, 1, places))
    head = draw.matrix(V, H, kind, biased=False)
    head = Dense(*(array if array is None else array[repeated] for array in head))
    mx.eval([array for array in head if array is not None])
    x = draw.normal(T, H, scale=3)
    norm = 1 + draw.normal(H, scale=0.3)
    logits, expected = product(normed(x, norm), head)

    def short(out: tuple[mx.array, mx.array] | None) -> list[np.ndarray]:
        assert out is not None
        tokens, witness = np.array(out[0]), exact(out[1])
        assert np.isfinite(witness).all()
        assert not (tokens % 5 == 1)[tokens > 1].any(), "of equal logits the lower token"
        return [np.take_along_axis(logits, tokens[:, None].astype(int), axis=1)]

    return Trial(
        f"T={T} H={H} V={V}, {kind}",
        lambda: short(native.norm_head_argmax(x, norm, EPS, head)),
        lambda: short(reference.norm_head_argmax(x, norm, EPS, wide(head))),
        [made(logits.max(1, keepdims=True), expected)],
    )


def embed(draw: Draw) -> Trial:
    H = draw.one_of(*COLUMNS)
    V = draw.whole(1, 300)
    T = draw.rows(H)
    kind = draw.kind(H)
    table = draw.matrix(V, H, kind, biased=False)
    ids = draw.rng.integers(0, V, T)
    ids[0], ids[-1] = 0, V - 1
    tokens = mx.array(ids).astype(draw.one_of(mx.int32, mx.uint32, mx.int64, mx.uint8 if V < 256 else mx.uint16))
    return Trial(
        f"T={T} H={H} V={V}, {kind}, {tokens.dtype}",
        lambda: results(native.embed(tokens, table)),
        lambda: results(reference.embed(tokens, table)),
        [made(dense.values(table)[ids])],
    )


def rope_tables(draw: Draw) -> Trial:
    """The angle is a float32, because it is one in the model's own definition."""
    half = draw.one_of(1, 16, 32, 48, 64)
    T = draw.whole(1, 40)
    inverse = mx.array((150000.0 ** -draw.rng.random(half)).astype(np.float32))
    positions = mx.array(draw.rng.integers(0, draw.one_of(10, 5000, 131072), T).astype(np.int32))
    angle = (np.array(positions).astype(np.float32)[:, None] * np.array(inverse)).astype(np.float64)
    return Trial(
        f"T={T} D/2={half}",
        lambda: results(native.rope_tables(inverse, positions)),
        lambda: results(reference.rope_tables(inverse, positions)),
        [made(np.cos(angle), 1.0), made(np.sin(angle), 1.0)],
    )


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, layer: Attention) -> Made:
    """Return the rows of queries [N, L, D], of the last L of P positions, over keys and values [M, P, D]: [L, N * D].

    A score's error is a part of the size of its D products, and its weight's error is the same part of the weight. So
    the size of results grows with that of the products.
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


OPERATIONS = (
    *(norm_qkv_rope, prefill_attention, decode_attention, output_residual, norm_router),
    *(expert_gate_up, expert_down_residual, expert_mlp_grouped, norm_head, norm_head_argmax, embed, rope_tables),
)
"""A function for each operation of the library, of its name."""


def trial(operation: Callable[[Draw], Trial], number: int, seed: int) -> Trial:
    """Return one of the operation's trials, always the same one."""
    return operation(Draw(seed, OPERATIONS.index(operation), number))
