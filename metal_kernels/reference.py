"""The decoder's operations in plain MLX: one function for each, and what the shaders are compared with.

Arrays in, arrays out. Knows no layer, no file and no device: ``launch`` decides what runs where. Shapes: B batch, L
length, T = B * L rows, H hidden, I intermediate, N query heads, M key/value heads, D head_dim, E experts, K experts per
token, S slots, V vocabulary.

The residual stream is float32 throughout. A product runs in the dtype of its weights. The keyword arguments ``product``
and ``product_dtype`` replace that, because MLX's CPU backend needs others (``float32_sums``).
"""

from collections.abc import Callable, Iterable
from functools import reduce
from itertools import accumulate

import mlx.core as mx

from metal_kernels import draws
from metal_kernels.operands import (
    Attention,
    CacheView,
    Dense,
    Experts,
    Pass,
    chunk_major,
    narrowed,
    natural,
)

SWIGLU_ALPHA = 1.702
"""The sigmoid's slope in gpt-oss's SwiGLU: fixed in the reference implementation, absent from configs."""


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """Normalise x [..., H] float32 in float32."""
    return mx.fast.rms_norm(x, weight, eps)


def dense(x: mx.array, layer: Dense) -> mx.array:
    """Project x [..., C] to [..., R] in the layer's dtype."""
    x = x.astype(layer.dtype)
    if layer.scales is None or layer.offsets is None:
        out = x @ layer.weight.T
    else:
        out = mx.quantized_matmul(x, layer.weight, layer.scales, layer.offsets, group_size=64, bits=8)
    return out if layer.bias is None else out + layer.bias


def grouped(rows: mx.array, slot: mx.array, experts: Experts) -> mx.array:
    """Multiply rows [T, C], row t by the weight in slot[t], to [T, R] in the dtype of the biases. ``slot`` is
    sorted."""
    rows = rows.astype(experts.bias.dtype)
    return _gather(rows[:, None], experts, slot, sorted_indices=True).squeeze(-2)


def grouped_swiglu(product: mx.array, slot: mx.array, bias: mx.array, limit: float) -> mx.array:
    """Add row slot[t] of bias [S, 2I] to row t of a grouped product [P, 2I], and activate, to [P, I]."""
    return swiglu(product + bias[slot], limit)


def grouped_sum(rows: mx.array, place: mx.array, weights: mx.array, residual: mx.array) -> mx.array:
    """Add to residual [T, H] float32 the rows of [P, H] at ``place`` [T, K] uint32, times weights [T, K] float32."""
    return residual + (rows[place].astype(mx.float32) * weights[..., None]).sum(axis=1)


Product = Callable[[mx.array, Dense], mx.array]
GroupedProduct = Callable[[mx.array, mx.array, Experts], mx.array]
GroupedSwiglu = Callable[[mx.array, mx.array, mx.array, float], mx.array]
GroupedSum = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


def embed(tokens: mx.array, table: Dense) -> mx.array:
    """Return the rows of token ids [T], [T, H] float32. Only these rows are read and decoded."""
    rows = table.weight[tokens]
    if table.scales is not None and table.offsets is not None:
        scales = table.scales[tokens].astype(mx.float32)
        offsets = table.offsets[tokens].astype(mx.float32)
        rows = mx.dequantize(rows, scales, offsets, group_size=64, bits=8)
    return rows.astype(mx.float32)


def rope_tables(inverse: mx.array, positions: mx.array) -> tuple[mx.array, mx.array]:
    """Return cos and sin, each [T, D / 2] float32, of ``positions`` [T] times inverse frequencies [D / 2] float32.
    Every layer reads them, so they are made once per forward pass."""
    angles = positions.astype(mx.float32)[:, None] * inverse[None]
    return mx.cos(angles), mx.sin(angles)


def rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate x [T, N, D] by cos and sin [T, D / 2] float32, to float32. Dimension i pairs with i + D / 2."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    cos = cos[:, None]
    sin = sin[:, None]
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def norm_qkv_rope(
    x: mx.array,
    norm: mx.array,
    eps: float,
    qkv: Dense,
    cos: mx.array,
    sin: mx.array,
    *,
    heads: int,
    kv_heads: int,
    product: Product = dense,
) -> tuple[mx.array, mx.array]:
    """Norm x [T, H] and project it to q [T, N, D] float32 and to keys and values [T, 2, M, D] in the layer's dtype.

    q and keys are rotated. The rows of qkv are all of q, then keys, then values.
    """
    out = product(rms_norm(x, norm, eps), qkv).reshape(len(x), heads + 2 * kv_heads, -1)
    rotated = rope(out[:, : heads + kv_heads], cos, sin)
    values = out[:, heads + kv_heads :]
    return rotated[:, :heads], mx.stack([rotated[:, heads:], values], axis=1).astype(qkv.dtype)


def prefill_attention(q: mx.array, k: mx.array, v: mx.array, layer: Attention) -> mx.array:
    """Compute softmax attention with one sink logit per query head, [B, L, N * D] in the dtype of k.

    k and v [B, M, P, D] hold P positions, and q [B, N, L, D] float32 are queries of the last L of them. Query i sees
    key j iff ``0 <= i - j < window``, in positions; None means all before it. With a window, queries go in bands as
    long as the window, of 64 at least. Each band reads its own keys and a window before them. A short rest joins the
    band before it.
    """
    B, N, L, D = q.shape
    q = q.astype(k.dtype)
    v = v.astype(k.dtype)
    sinks = layer.sinks.astype(k.dtype)
    window = layer.window
    P = k.shape[2]
    bands = []
    masks: dict[tuple[int, int], mx.array] = {}  # most bands have the same
    starts = list(range(0, L, max(window, 64) if window else L))
    if len(starts) > 1 and L - starts[-1] <= 8:  # MLX has no fused kernel on Metal for 5 to 8 queries
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], L], strict=True):
        first = max(0, P - L + start + 1 - window) if window else 0
        last = P - L + stop
        rows, seen = stop - start, last - first
        mask: mx.array | str | None = None
        if window is not None and seen > window:
            if (rows, seen) not in masks:
                age = mx.arange(seen - rows, seen)[:, None] - mx.arange(seen)[None]
                masks[rows, seen] = (age >= 0) & (age < window)
            mask = masks[rows, seen]
        elif rows > 1:
            mask = "causal"
        keys = k[:, :, first:last]
        values = v[:, :, first:last]
        part = q[:, :, start:stop]
        bands.append(
            mx.fast.scaled_dot_product_attention(part, keys, values, scale=layer.scale, mask=mask, sinks=sinks)
        )
    out = mx.concatenate(bands, axis=2) if len(bands) > 1 else bands[0]
    return out.transpose(0, 2, 1, 3).reshape(B, L, N * D)


def decode_attention(
    q: mx.array, kv: mx.array, cache: CacheView, layer: Attention, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Compute the same for L new positions of one sequence over its cache, and add them to the cache's tail.

    q is [L, N, D] float32 and kv [L, 2, M, D]. Returns attended rows [L, N * D] in ``dtype`` and a tail
    [2, 1, M, R, D] that also holds the new rows. Body and tail are read where they lie. Products are of float32, and
    16-bit keys and values are opened to it, because MLX's CPU backend would add up in 16 bits.
    """
    L, N, D = q.shape
    M = kv.shape[2]
    keys = cache.keys
    window = layer.window
    sinks = layer.sinks.astype(mx.float32)
    body_rows = int(cache.counts.tolist()[0])  # type: ignore[index, arg-type]
    tail_rows = keys - body_rows
    tail = mx.slice_update(cache.tail, kv.transpose(1, 2, 0, 3)[:, None], mx.array([tail_rows]), (3,))
    first = 0 if window is None else max(0, keys + 1 - window)  # that the first of the new rows sees
    start = min(first, body_rows)
    pieces = [tail[:, 0, :, first - start : tail_rows + L].astype(mx.float32)]
    if start < body_rows:
        pieces.insert(0, cache.body[:, 0, :, start:body_rows].astype(mx.float32))
    grouped_heads = (q * layer.scale).reshape(L, M, N // M, D).transpose(1, 2, 0, 3).reshape(M, -1, D)
    scores = [grouped_heads @ piece[0].swapaxes(1, 2) for piece in pieces]
    if L > 1:
        seen = _seen(keys, L, first, window or keys + L)
        whole = mx.concatenate(scores, axis=-1).reshape(N, L, -1)
        scores = [mx.where(seen, whole, -mx.inf).reshape(M, N // M * L, -1)]
    sink = mx.repeat(sinks, L) if L > 1 else sinks
    weights = mx.softmax(mx.concatenate([*scores, sink.reshape(M, -1, 1)], axis=-1), axis=-1, precise=True)
    shares = mx.split(weights, list(accumulate(piece.shape[2] for piece in pieces)), axis=-1)  # the last is the sink's
    out = reduce(mx.add, [share @ piece[1] for share, piece in zip(shares, pieces, strict=False)])
    out = out.reshape(M, N // M, L, D).transpose(2, 0, 1, 3).reshape(L, N * D)
    return narrowed(out, dtype), tail


def _seen(keys: int, L: int, first: int, window: int) -> mx.array:
    """Return which keys each of L new rows sees, [L, keys + L - first] bool: those from ``first`` on of ``keys``
    earlier ones, then the new ones."""
    age = mx.arange(keys, keys + L)[:, None] - mx.arange(first, keys + L)
    return (age >= 0) & (age < window)


def output_residual(attended: mx.array, o: Dense, residual: mx.array, *, product: Product = dense) -> mx.array:
    """Project attended [T, N * D] and add it to residual [T, H] float32."""
    return residual + product(attended, o)


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """Norm x [T, H]. Return the rows chunk-major in ``dtype``, and the raw router logits [T, E] float32."""
    normed = rms_norm(x, norm, eps)
    # In float32 whatever the router's dtype, because near ties decide which experts are read.
    bias = None if router.bias is None else router.bias.astype(mx.float32)
    exact = Dense(router.weight.astype(mx.float32), bias)
    return chunk_major(normed, dtype), dense(normed, exact)


def top_experts(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Return the K experts with the largest router logits [T, E]: ids [T, K] and weights [T, K] float32.

    Ids are in falling order of the logit; equal logits go to the lower id. The softmax is over the chosen ones only.
    """
    chosen = mx.argsort(-logits, axis=-1)[:, :k]
    return chosen, mx.softmax(mx.take_along_axis(logits, chosen, axis=-1), axis=-1, precise=True)


def swiglu(gate_up: mx.array, limit: float) -> mx.array:
    """Activate [..., 2I], which holds gate and linear values in turn, to [..., I]. The gate is clamped above only."""
    gate = mx.minimum(gate_up[..., 0::2], limit)
    linear = mx.clip(gate_up[..., 1::2], -limit, limit)
    return gate * mx.sigmoid(SWIGLU_ALPHA * gate) * (linear + 1)


def expert_gate_up(
    normed: mx.array,
    logits: mx.array,
    slots: mx.array,
    experts: Experts,
    k: int,
    limit: float,
    *,
    product_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Project each of T chunk-major rows by the K experts its logits [T, E] choose, add biases and activate.

    Returns [T, K] chunk-major rows of I. ``slots`` [E] int32 tells the slot of each expert. Rows of an absent one may
    be anything. This is for few rows: it reads an expert once for each row that chooses it.
    """
    slot = mx.maximum(slots[top_experts(logits, k)[0]], 0)
    rows = natural(normed)[:, None, None].astype(product_dtype or experts.bias.dtype)
    out = _gather(rows, experts, slot).squeeze(-2) + experts.bias[slot]
    return chunk_major(swiglu(out, limit), experts.input_dtype)


def expert_down_residual(
    activated: mx.array,
    logits: mx.array,
    slots: mx.array,
    experts: Experts,
    residual: mx.array,
    *,
    product_dtype: mx.Dtype | None = None,
) -> mx.array:
    """Project [T, K] chunk-major rows of I by the experts that made them, add biases, and add each row's weighted sum
    to residual [T, H] float32. An absent expert adds nothing."""
    chosen, weights = top_experts(logits, activated.shape[1])
    weights = mx.where(slots[chosen] < 0, 0, weights)
    slot = mx.maximum(slots[chosen], 0)
    rows = natural(activated)[:, :, None].astype(product_dtype or experts.bias.dtype)
    out = _gather(rows, experts, slot).squeeze(-2) + experts.bias[slot]
    return residual + (out.astype(mx.float32) * weights[..., None]).sum(axis=1)


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
    product: GroupedProduct = grouped,
    activate: GroupedSwiglu = grouped_swiglu,
    add_up: GroupedSum = grouped_sum,
) -> mx.array:
    """Do both expert projections for many chunk-major rows, and add their weighted sums to residual [T, H] float32.
    No chosen expert may be absent.

    Rows are sorted by expert, so that each weight is read once. ``activate`` and ``add_up`` replace the operations of
    their names.
    """
    whole = [Pass(slots, len(logits) * k)]
    return expert_mlp_in_passes(
        normed,
        logits,
        whole,
        gate_up,
        down,
        residual,
        k=k,
        limit=limit,
        product=product,
        activate=activate,
        add_up=add_up,
    )


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
    product: GroupedProduct = grouped,
    activate: GroupedSwiglu = grouped_swiglu,
    add_up: GroupedSum = grouped_sum,
) -> mx.array:
    """Do the same in passes over experts, of which each has its slot in one pass only.

    A pass is under way on the device before the next one is asked for. Whoever gives other experts the same slots then
    waits for the device.
    """
    chosen, weights = top_experts(logits, k)
    rows = natural(normed)
    orders = []
    outs = []
    for slots, pairs in passes:
        flat = slots[chosen].reshape(-1)
        order = mx.argsort(flat)[flat.size - pairs :]  # those without a slot come first
        slot = flat[order]
        activated = activate(product(rows[order // k], slot, gate_up), slot, gate_up.bias, limit)
        out = product(activated, slot, down) + down.bias[slot]
        mx.async_eval(order, out)
        orders.append(order)
        outs.append(out)
    place = mx.argsort(mx.concatenate(orders)).reshape(-1, k)
    return add_up(mx.concatenate(outs), place, weights, residual)


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense, *, product: Product = dense) -> mx.array:
    """Norm x [T, H] float32 and project it to vocabulary logits [T, V] float32."""
    return product(rms_norm(x, norm, eps), head).astype(mx.float32)


def norm_head_argmax(
    x: mx.array, norm: mx.array, eps: float, head: Dense, *, product: Product = dense
) -> tuple[mx.array, mx.array]:
    """Return the token of each row's largest logit, [T] uint32, and a witness, [T] float32, for x [T, H] float32.

    Equal logits go to the lower token. A witness is some number that is finite iff all logits of its row are; where
    they are not, the token is any of the vocabulary.
    """
    logits = norm_head(x, norm, eps, head, product=product)
    return mx.argmax(logits, axis=-1), draws.witness(logits)


def _gather(x: mx.array, experts: Experts, slot: mx.array, sorted_indices: bool = False) -> mx.array:
    # Up to MLX 0.32 its sorted product is wrong on M5 where a row ends within 64 columns (mlx issue 3887).
    ordered = sorted_indices and x.shape[-1] % 64 == 0
    weight = (experts.weight, experts.scales)
    return mx.gather_qmm(x, *weight, rhs_indices=slot, group_size=32, bits=4, mode="mxfp4", sorted_indices=ordered)
