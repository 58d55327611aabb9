"""Trials of the dense operations: projections, the router, the head, the embedding and rotary positions."""

import mlx.core as mx
import numpy as np

from metal_kernels import reference
from metal_kernels.cpu import operations as native
from metal_kernels.operands import Dense
from tests.metal_kernels.cpu.trials.common import COLUMNS, F32, KINDS, Draw, Trial, made, results
from tests.metal_kernels.shaders import dense, experts
from tests.metal_kernels.shaders.common import EPS, exact


def wide(layer: Dense) -> Dense:
    """Return the same layer with its values in float32, in which plain MLX then computes."""
    if layer.scales is None or layer.offsets is None:
        return layer._replace(weight=layer.weight.astype(F32))
    return layer._replace(scales=layer.scales.astype(F32), offsets=layer.offsets.astype(F32))


def product(x: np.ndarray, layer: Dense) -> tuple[np.ndarray, float]:
    """Return x [T, C] times the layer's matrix, with its bias, and the value that is expected of a sum."""
    weight = dense.values(layer)
    expected = float(np.sqrt((x**2) @ (weight**2).T).max())
    return x @ weight.T + (0 if layer.bias is None else exact(layer.bias)), expected


def normed(x: mx.array, norm: mx.array) -> np.ndarray:
    row = exact(x)
    return row / np.sqrt((row**2).mean(-1, keepdims=True) + EPS) * exact(norm)


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
