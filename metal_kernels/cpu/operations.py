"""The decoder's operations in the native library: the arguments and results of ``reference``, on arrays where they lie.

Each function returns None for arrays that the library does not take: other dtypes than float32 beside weights in
float32, bfloat16, 8 bits and MXFP4, rows that are no whole groups of 32, or weights, router logits and sinks that do
not lie in one piece. Other arrays that do not are copied. Arrays that nothing has computed yet are computed first.
Results are complete when a function returns. Knows no device; ``launch`` decides when these run.
"""

import ctypes
import math
from collections.abc import Callable, Iterable, Sequence
from ctypes import addressof, byref
from typing import Any

import mlx.core as mx
import numpy as np

from metal_kernels.cpu.library import FORMATS, STRIDES, Cache, Heads, Library, Matrix, Routing, library
from metal_kernels.operands import Attention, CacheView, Dense, Experts, Pass

GROUP = 32
"""Columns come in whole groups of so many, and so do the dimensions of a head."""
SMALL = 1 << 20
"""Values below which copying numpy's array is the fastest way to a new one. Above, it would take twice the memory."""
FLOAT32 = mx.float32
BFLOAT16 = mx.bfloat16


_view: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
"""Returns the first byte of an array's values, computing them first. Raises TypeError if they are not in one piece."""


def norm_qkv_rope(
    x: mx.array, norm: mx.array, eps: float, qkv: Dense, cos: mx.array, sin: mx.array, *, heads: int, kv_heads: int
) -> tuple[mx.array, mx.array] | None:
    """As :func:`reference.norm_qkv_rope`. Keys and values are float32."""
    matrix = _dense(qkv)
    dim = qkv.weight.shape[0] // (heads + 2 * kv_heads)
    if matrix is None or dim % GROUP or not _float32(x, norm, cos, sin):
        return None
    T = len(x)
    q = _empty(T, heads, dim)
    kv = _empty(T, 2, kv_heads, dim)
    given = _in(x), _in(norm), eps, byref(matrix), _in(cos), _in(sin), T, heads, kv_heads
    _library().call("norm_qkv_rope", *given, _at(q), _at(kv))
    return q, kv


def prefill_attention(q: mx.array, k: mx.array, v: mx.array, layer: Attention) -> mx.array | None:
    """As :func:`reference.prefill_attention`."""
    B, N, L, D = q.shape
    M, P = k.shape[1:3]
    heads = _heads(layer, N, M, D)
    if heads is None or not _float32(q, k, v):
        return None
    views = [np.array(array, copy=False) for array in (q, k, v)]
    if any(view.strides[3] != 4 for view in views):
        return None
    strided = [part for view in views for part in (view.ctypes.data, STRIDES(*(s // 4 for s in view.strides[:3])))]
    out = _empty(B, L, N * D)
    _library().call("prefill_attention", *strided, byref(heads), B, L, P, _at(out))
    return out


def decode_attention(
    q: mx.array, kv: mx.array, caches: Sequence[CacheView], layer: Attention
) -> tuple[mx.array, list[mx.array]] | None:
    """Run :func:`reference.decode_attention` for each of S sequences, in float32.

    q [S * L, N, D] and kv [S * L, 2, M, D] hold the L rows of the first sequence first. Returns attended rows
    [S * L, N * D] and the caches' own tails, into which the new rows are written: a tail may have one writer only.
    """
    T, N, D = q.shape
    M = kv.shape[2]
    first = caches[0]
    heads = _heads(layer, N, M, D)
    if heads is None or not _float32(q, kv, first.body, first.tail):
        return None
    S = len(caches)
    views = (Cache * S)()
    bodies = [_whole(cache.body) for cache in caches]
    tails = [_whole(cache.tail) for cache in caches]
    for number, (_, _, counts, keys) in enumerate(caches):
        rows = int(counts.tolist()[0])  # type: ignore[index, arg-type]
        body = bodies[number]
        tail = tails[number]
        views[number] = Cache(_at(body), _at(tail), body.shape[3], tail.shape[3], rows, keys - rows)
    out = _empty(T, N * D)
    _library().call("decode_attention", _in(q), _in(kv), views, byref(heads), S, T // S, _at(out))
    return out, tails


def output_residual(attended: mx.array, o: Dense, residual: mx.array) -> mx.array | None:
    """As :func:`reference.output_residual`."""
    matrix = _dense(o)
    if matrix is None or not _float32(attended, residual):
        return None
    out = _empty(*residual.shape)
    _library().call("output_residual", _in(attended), byref(matrix), _in(residual), len(residual), _at(out))
    return out


def norm_router(
    x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype
) -> tuple[mx.array, mx.array] | None:
    """As :func:`reference.norm_router`."""
    matrix = _dense(router)
    if matrix is None or dtype != FLOAT32 or not _float32(x, norm):
        return None
    T, H = x.shape
    normed = _empty(T, 8, H // GROUP, 4)
    logits = _empty(T, router.weight.shape[0])
    _library().call("norm_router", _in(x), _in(norm), eps, byref(matrix), T, _at(normed), _at(logits))
    return normed, logits


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> mx.array | None:
    """As :func:`reference.expert_gate_up`. Rows that choose the same expert share its decoding."""
    matrix = _experts(experts, 2 * GROUP)
    routing = _routing(logits, slots, k)
    if matrix is None or routing is None or not _float32(normed):
        return None
    activated = _empty(len(logits), k, 8, experts.weight.shape[1] // 2 // GROUP, 4)
    _library().call("expert_gate_up", _in(normed), byref(routing), byref(matrix), limit, _at(activated))
    return activated


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> mx.array | None:
    """As :func:`reference.expert_down_residual`."""
    matrix = _experts(experts, GROUP)
    routing = _routing(logits, slots, activated.shape[1])
    if matrix is None or routing is None or not _float32(activated, residual):
        return None
    out = _empty(*residual.shape)
    given = _in(activated), byref(routing), byref(matrix), _in(residual)
    _library().call("expert_down_residual", *given, _at(out))
    return out


def expert_mlp_grouped(
    normed: mx.array,
    logits: mx.array,
    slots: mx.array,
    gate_up: Experts,
    down: Experts,
    residual: mx.array,
    *,
    k: int,
    limit: float,
) -> mx.array | None:
    """As :func:`reference.expert_mlp_grouped`."""
    up = _experts(gate_up, 2 * GROUP)
    back = _experts(down, GROUP)
    routing = _routing(logits, slots, k)
    if up is None or back is None or routing is None or not _float32(normed, residual):
        return None
    out = _empty(*residual.shape)
    given = _in(normed), byref(routing), byref(up), byref(back), limit, _in(residual)
    _library().call("expert_mlp_grouped", *given, _at(out))
    return out


def expert_mlp_in_passes(
    normed: mx.array,
    logits: mx.array,
    passes: Iterable[Pass],
    gate_up: Experts,
    down: Experts,
    residual: mx.array,
    *,
    k: int,
    limit: float,
) -> mx.array | None:
    """As :func:`reference.expert_mlp_in_passes`. A pass is over before the next one is asked for."""
    up = _experts(gate_up, 2 * GROUP)
    back = _experts(down, GROUP)
    if up is None or back is None or not _float32(normed, logits, residual):
        return None
    T, H = residual.shape
    made = np.empty((T, k, H), np.float32)
    routing = None
    for slots, _ in passes:
        routing = _routing(logits, slots, k)
        assert routing is not None, "slots in int32, and the router's own logits"
        _library().call("expert_pass", _in(normed), byref(routing), byref(up), byref(back), limit, made.ctypes.data)
    assert routing is not None, "there is a pass"
    out = _empty(T, H)
    _library().call("expert_combine", made.ctypes.data, byref(routing), H, _in(residual), _at(out))
    return out


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense) -> mx.array | None:
    """As :func:`reference.norm_head`."""
    matrix = _dense(head)
    if matrix is None or head.bias is not None or not _float32(x, norm):
        return None
    logits = _empty(len(x), head.weight.shape[0])
    _library().call("norm_head", _in(x), _in(norm), eps, byref(matrix), len(x), _at(logits))
    return logits


def norm_head_argmax(x: mx.array, norm: mx.array, eps: float, head: Dense) -> tuple[mx.array, mx.array] | None:
    """As :func:`reference.norm_head_argmax`. The witness is 0 where all logits are finite, else NaN."""
    matrix = _dense(head)
    if matrix is None or head.bias is not None or not _float32(x, norm):
        return None
    token = mx.array(np.empty(len(x), np.uint32))
    witness = _empty(len(x))
    given = _in(x), _in(norm), eps, byref(matrix), len(x)
    _library().call("norm_head_argmax", *given, _at(token), _at(witness))
    return token, witness


def embed(tokens: mx.array, table: Dense) -> mx.array | None:
    """As :func:`reference.embed`."""
    matrix = _dense(table)
    if matrix is None:
        return None
    ids = tokens if tokens.dtype in (mx.int32, mx.uint32) else tokens.astype(mx.int32)
    out = _empty(len(tokens), matrix.columns)
    _library().call("embed", _in(ids), byref(matrix), len(tokens), _at(out))
    return out


def rope_tables(inverse: mx.array, positions: mx.array) -> tuple[mx.array, mx.array] | None:
    """As :func:`reference.rope_tables`, for positions in int32."""
    if positions.dtype != mx.int32 or not _float32(inverse):
        return None
    T, half = len(positions), len(inverse)
    cos, sin = _empty(T, half), _empty(T, half)
    _library().call("rope_tables", _in(inverse), _in(positions), T, half, _at(cos), _at(sin))
    return cos, sin


def hold_zeros_in_large_pages(array: mx.array) -> None:
    """Ask the system to hold an array of zeros in large pages once it is written. It may refuse."""
    _library().zeros_in_large_pages(_at(array), array.nbytes)


def _library() -> Library:
    loaded = library()
    assert loaded is not None, "launch calls these only where the library is"
    return loaded


def _at(array: mx.array) -> int:
    """Return the address of the array's values, computing them first. They must lie in one piece."""
    return addressof(_view(array))


def _in(array: mx.array) -> Any:
    """Return an argument that is the address of an operation's input, and keeps it in memory until the call is over. An
    array that does not lie in one piece is copied."""
    try:
        return byref(_view(array))
    except TypeError:
        return byref(_view(mx.contiguous(array)))


def _whole(array: mx.array) -> mx.array:
    """Return the array if its values lie in one piece, else a copy of it."""
    try:
        _view(array)
    except TypeError:
        return mx.contiguous(array)
    return array


def _empty(*shape: int) -> mx.array:
    """Return a new float32 array of any values, to be written through its address before anyone else sees it."""
    if math.prod(shape) < SMALL:
        return mx.array(np.empty(shape, np.float32))
    out = mx.zeros(shape)
    mx.eval(out)
    return out


def _float32(*arrays: mx.array) -> bool:
    return all(array.dtype == FLOAT32 for array in arrays)


def _dense(layer: Dense) -> Matrix | None:
    """Return a linear layer as the library takes it, or None."""
    weight, bias, scales, offsets = layer
    places = _places(weight, scales, offsets, bias)
    if places is None or (bias is not None and bias.dtype != FLOAT32):
        return None
    rows, columns = weight.shape
    if scales is None or offsets is None:
        kind = FORMATS["float32"] if weight.dtype == FLOAT32 else FORMATS["bfloat16"]
        if columns % GROUP or weight.dtype not in (FLOAT32, BFLOAT16):
            return None
        return Matrix(*places, rows, columns, kind, 0)
    if scales.dtype != offsets.dtype or scales.dtype not in (FLOAT32, BFLOAT16):
        return None
    return Matrix(*places, rows, 4 * columns, FORMATS["q8"], scales.dtype == FLOAT32)


def _experts(layer: Experts, unit: int) -> Matrix | None:
    """Return a projection of all experts, to whole units of values, as the library takes it, or None."""
    weight, scales, bias = layer
    _, rows, words = weight.shape
    places = _places(weight, scales, None, bias)
    if places is None or bias.dtype != FLOAT32 or rows % unit:
        return None
    return Matrix(*places, rows, 8 * words, FORMATS["mxfp4"], 0)


def _routing(logits: mx.array, slots: mx.array, k: int) -> Routing | None:
    """Return the experts' choice as the library takes it, or None."""
    places = _places(logits, slots)
    if places is None or logits.dtype != FLOAT32 or slots.dtype != mx.int32:
        return None
    T, experts = logits.shape
    return Routing(*places, T, experts, k)


def _heads(layer: Attention, N: int, M: int, D: int) -> Heads | None:
    """Return one layer's attention as the library takes it, or None."""
    places = _places(layer.sinks)
    if places is None or layer.sinks.dtype != FLOAT32 or D % GROUP:
        return None
    return Heads(*places, N, M, D, layer.window or 0, layer.scale)


def _places(*arrays: mx.array | None) -> list[int | None] | None:
    """Return the addresses of arrays, computing them first, or None if one does not lie in one piece."""
    try:
        return [None if array is None else _at(array) for array in arrays]
    except TypeError:
        return None
