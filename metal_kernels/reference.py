"""The decoder's operations in plain MLX: one function for each that has, or will have, a Metal body.

They run the CPU backend and are what the shaders are held to. Arrays in, arrays out: nothing here knows a layer, a
cache or a file. Shapes: B batch, L length, T = B * L rows, H hidden, I intermediate, N query heads, M key/value heads,
D head_dim, E experts, K experts per token, S slots, V vocabulary.

The residual stream is float32 throughout; products run in the dtype of their weights, on the CPU backend in float32.
"""

from functools import reduce
from itertools import accumulate
from typing import NamedTuple

import mlx.core as mx

from metal_kernels import cpu_dense, cpu_experts

SWIGLU_ALPHA = 1.702
"""The sigmoid's slope in gpt-oss's SwiGLU: fixed in the reference implementation, absent from configs."""

MANY_ROWS = 4
"""From this many rows on, a quantized product on the CPU backend costs more than decoding the weight once."""


class Dense(NamedTuple):
    """A linear layer. ``weight`` is [R, C] of a float type, or [R, C / 4] uint32 with affine ``scales`` and ``biases``
    [R, C / 64] (8 bits, group 64). ``bias`` is [R] or absent."""

    weight: mx.array
    bias: mx.array | None = None
    scales: mx.array | None = None
    biases: mx.array | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """What its input is cast to."""
        return self.weight.dtype if self.scales is None else self.scales.dtype


class Experts(NamedTuple):
    """One projection of all experts in MXFP4: ``weight`` [S, R, C / 8] uint32, ``scales`` [S, R, C / 32] uint8 and
    ``bias`` [S, R]. S counts slots: where an expert lies is looked up, never assumed."""

    weight: mx.array
    scales: mx.array
    bias: mx.array

    @property
    def input_dtype(self) -> mx.Dtype:
        return input_dtype(self.bias.dtype)


def input_dtype(bias: mx.Dtype) -> mx.Dtype:
    """What rows are handed to experts as: half beside 16-bit biases, as bfloat16 would keep 8 of its 11 bits."""
    return mx.float32 if bias == mx.float32 else mx.float16


def chunk_major(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """[..., H] to the form in which rows are handed to experts, [..., C, H / 32, W]: chunks of 16 bytes, W values each,
    C to a group of 32. The shaders' lanes take a group each, and so read side by side."""
    width = 16 // dtype.size
    return narrowed(x, dtype).reshape(*x.shape[:-1], -1, 32 // width, width).swapaxes(-3, -2)


def narrowed(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """In the dtype rows are handed on in. half ends at 65504."""
    return (mx.clip(x, -65504, 65504) if dtype == mx.float16 else x).astype(dtype)


def natural(x: mx.array) -> mx.array:
    """The inverse of :func:`chunk_major`: [..., C, H / 32, W] to [..., H]."""
    return x.swapaxes(-3, -2).flatten(-3)


def on_cpu() -> bool:
    """Whether arrays are computed by MLX's CPU backend, which groups nothing and decodes weights row by row."""
    return mx.default_device().type == mx.DeviceType.cpu


def product_dtype(stored: mx.Dtype) -> mx.Dtype:
    """What a product with weights of that dtype runs in: on the CPU backend in float32.

    MLX's own kernels there add up in bfloat16. Over 2,880 columns, of its largest value a q8 product of up to three
    rows was off by 12% (over 4,096 by 9%), one with a bfloat16 matrix by 0.5%, one through experts by 1.9%; the
    router's and attention's were within rounding, a q8 embedding off by 0.5%.
    """
    return mx.float32 if on_cpu() else stored


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """[..., H] float32, normalised in float32."""
    return mx.fast.rms_norm(x, weight, eps)


def dense(x: mx.array, layer: Dense) -> mx.array:
    """[..., C] to [..., R] in the layer's dtype; on the CPU backend in float32."""
    dtype = product_dtype(layer.dtype)
    x = x.astype(dtype)
    if layer.scales is None or layer.biases is None:
        opened = on_cpu() and layer.weight.dtype == mx.bfloat16
        out = cpu_dense.product(x, layer.weight) if opened else x @ layer.weight.T
    else:
        affine = layer.weight, layer.scales.astype(dtype), layer.biases.astype(dtype)
        if on_cpu() and x.size // x.shape[-1] >= MANY_ROWS:
            out = x @ mx.dequantize(*affine, group_size=64, bits=8).T
        else:
            out = mx.quantized_matmul(x, *affine, group_size=64, bits=8)
    return out if layer.bias is None else out + layer.bias


def embed(tokens: mx.array, table: Dense) -> mx.array:
    """Token ids [...] to [..., H] float32. Only the rows asked for are read or decoded."""
    rows = table.weight[tokens]
    if table.scales is not None and table.biases is not None:
        scales, biases = (array[tokens].astype(mx.float32) for array in (table.scales, table.biases))
        rows = mx.dequantize(rows, scales, biases, group_size=64, bits=8)
    return rows.astype(mx.float32)


def rope(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate halves: dimension i pairs with i + D / 2. x [T, N, D]; cos, sin [T, D / 2] float32. In float32."""
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def norm_qkv_rope(
    x: mx.array, norm: mx.array, eps: float, qkv: Dense, cos: mx.array, sin: mx.array, heads: int, kv_heads: int
) -> tuple[mx.array, mx.array]:
    """x [T, H] to q [T, N, D] float32, and keys and values [T, 2, M, D] in the layer's dtype; q and keys rotated.

    qkv rows: all of q, then keys, then values.
    """
    out = dense(rms_norm(x, norm, eps), qkv).reshape(len(x), heads + 2 * kv_heads, -1)
    rotated, v = rope(out[:, : heads + kv_heads], cos, sin), out[:, heads + kv_heads :]
    return rotated[:, :heads], mx.stack([rotated[:, heads:], v], axis=1).astype(qkv.dtype)


def attention(
    q: mx.array, k: mx.array, v: mx.array, sinks: mx.array, scale: float, window: int | None = None
) -> mx.array:
    """Softmax attention with one sink logit per query head, [B, L, N * D].

    q [B, N, L, D] float32 are the last L of the P positions k, v [B, M, P, D] hold. Query i sees key j iff
    ``0 <= i - j < window``, counted in positions: ``window`` keys with its own; None means all before it. With a
    window, queries go in bands of it, of 64 at least, each beside the window's keys and its own; a short rest goes with
    the band before.
    """
    B, N, L, D = q.shape
    q, k, v, sinks = (array.astype(product_dtype(k.dtype)) for array in (q, k, v, sinks))
    P = k.shape[2]
    bands, starts = [], list(range(0, L, max(window, 64) if window else L))
    if len(starts) > 1 and L - starts[-1] <= 8:  # MLX has no fused kernel on Metal for 5 to 8 queries
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], L], strict=True):
        first, last = max(0, P - L + start + 1 - window) if window else 0, P - L + stop
        mask: mx.array | str | None = None
        if window is not None and last - first > window:
            age = mx.arange(P - L + start, last)[:, None] - mx.arange(first, last)[None]
            mask = (age >= 0) & (age < window)
        elif stop - start > 1:
            mask = "causal"
        keys, values = k[:, :, first:last], v[:, :, first:last]
        part = q[:, :, start:stop]
        bands.append(mx.fast.scaled_dot_product_attention(part, keys, values, scale=scale, mask=mask, sinks=sinks))
    out = mx.concatenate(bands, axis=2) if len(bands) > 1 else bands[0]
    return out.transpose(0, 2, 1, 3).reshape(B, L, N * D)


def attention_with_cache(
    q: mx.array,
    kv: mx.array,
    body: mx.array,
    tail: mx.array,
    rows: mx.array,
    keys: int,
    sinks: mx.array,
    scale: float,
    window: int | None,
    dtype: mx.Dtype,
) -> tuple[mx.array, mx.array]:
    """The same over a cache in two parts, which are read where they lie: attended [L, N * D] in ``dtype``, and a tail
    [2, 1, M, R, D] with the new rows.

    q [L, N, D] float32 and kv [L, 2, M, D] are L new positions of one sequence. They come after the rows of body
    [2, 1, M, capacity, D] and of tail [2, 1, M, R, D] that ``rows`` [2] int32 counts; ``keys`` is their sum. What other
    rows hold is of no account, nor what lies beyond the new rows in the fresh tail.

    Products are of float32, for which 16-bit keys and values are opened: in 16 bits, MLX's CPU backend would add up so.
    """
    (L, N, D), M = q.shape, kv.shape[2]
    body_rows = int(rows.tolist()[0])  # type: ignore[index, arg-type]
    tail_rows = keys - body_rows
    tail = mx.slice_update(tail, kv.transpose(1, 2, 0, 3)[:, None], mx.array([tail_rows]), (3,))
    first = 0 if window is None else max(0, keys + 1 - window)  # that the first of the new rows sees
    start = min(first, body_rows)
    pieces = [tail[:, 0, :, first - start : tail_rows + L].astype(mx.float32)]
    if start < body_rows:
        pieces.insert(0, body[:, 0, :, start:body_rows].astype(mx.float32))
    grouped = (q * scale).reshape(L, M, N // M, D).transpose(1, 2, 0, 3).reshape(M, -1, D)
    scores = [grouped @ piece[0].swapaxes(1, 2) for piece in pieces]
    if L > 1:
        seen = _seen(keys, L, first, window or keys + L)
        whole = mx.concatenate(scores, axis=-1).reshape(N, L, -1)
        scores = [mx.where(seen, whole, -mx.inf).reshape(M, N // M * L, -1)]
    sink = mx.repeat(sinks.astype(mx.float32), L) if L > 1 else sinks.astype(mx.float32)
    weights = mx.softmax(mx.concatenate([*scores, sink.reshape(M, -1, 1)], axis=-1), axis=-1, precise=True)
    shares = mx.split(weights, list(accumulate(piece.shape[2] for piece in pieces)), axis=-1)  # the last is the sink's
    out = reduce(mx.add, [share @ piece[1] for share, piece in zip(shares, pieces, strict=False)])
    out = out.reshape(M, N // M, L, D).transpose(2, 0, 1, 3).reshape(L, N * D)
    return narrowed(out, dtype), tail


def _seen(keys: int, L: int, first: int, window: int) -> mx.array:
    """Whether the new rows, which come after ``keys`` others, see the rows from ``first`` on: [L, keys + L - first]."""
    age = mx.arange(keys, keys + L)[:, None] - mx.arange(first, keys + L)
    return (age >= 0) & (age < window)


def output_residual(attended: mx.array, o: Dense, residual: mx.array) -> mx.array:
    """attended [T, N * D], projected and added to residual [T, H] float32."""
    return residual + dense(attended, o)


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """x [T, H] to its normed rows, handed on chunk-major in ``dtype``, and the raw router logits [T, E] float32."""
    normed = rms_norm(x, norm, eps)
    # In float32 whatever the router's dtype: near ties decide which experts are read.
    bias = None if router.bias is None else router.bias.astype(mx.float32)
    exact = Dense(router.weight.astype(mx.float32), bias)
    return chunk_major(normed, dtype), dense(normed, exact)


def top_experts(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Router logits [T, E] to expert ids [T, K] and weights [T, K] float32, softmax over the chosen only.

    In falling order of the logit; equal logits go to the lower id.
    """
    chosen = mx.argsort(-logits, axis=-1)[:, :k]
    return chosen, mx.softmax(mx.take_along_axis(logits, chosen, axis=-1), axis=-1, precise=True)


def swiglu(gate_up: mx.array, limit: float) -> mx.array:
    """[..., 2I] with gate and linear in turn to [..., I]. The gate is clamped above only."""
    gate, linear = gate_up[..., 0::2], gate_up[..., 1::2]
    gate, linear = mx.minimum(gate, limit), mx.clip(linear, -limit, limit)
    return gate * mx.sigmoid(SWIGLU_ALPHA * gate) * (linear + 1)


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> mx.array:
    """normed, T rows chunk-major, through the K experts each row's logits [T, E] choose, biased and activated: [T, K]
    rows of I, chunk-major.

    ``slots`` [E] int32 tells in which slot an expert lies. For few rows: reads an expert once per row that wants it.
    """
    slot = slots[top_experts(logits, k)[0]]
    out = _gather(natural(normed)[:, None, None].astype(product_dtype(experts.bias.dtype)), experts, slot)
    return chunk_major(swiglu(out.squeeze(-2) + experts.bias[slot], limit), experts.input_dtype)


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> mx.array:
    """activated, [T, K] rows of I chunk-major, through the same experts, biased, weighted, summed and added to residual
    [T, H] float32."""
    chosen, weights = top_experts(logits, activated.shape[1])
    slot = slots[chosen]
    rows = natural(activated)[:, :, None].astype(product_dtype(experts.bias.dtype))
    out = _gather(rows, experts, slot).squeeze(-2) + experts.bias[slot]
    return residual + (out.astype(mx.float32) * weights[..., None]).sum(axis=1)


def expert_mlp_grouped(
    normed: mx.array,
    logits: mx.array,
    slots: mx.array,
    gate_up: Experts,
    down: Experts,
    residual: mx.array,
    k: int,
    limit: float,
) -> mx.array:
    """Both expert projections for many rows, normed chunk-major to [T, H]: rows are sorted by expert, so each weight is
    read once."""
    T, H = residual.shape
    normed = natural(normed)
    chosen, weights = top_experts(logits, k)
    flat = slots[chosen].reshape(-1)
    order = mx.argsort(flat)
    slot, rows = flat[order], normed[order // k].astype(product_dtype(gate_up.bias.dtype))
    if on_cpu():
        out = cpu_experts.product(rows, slot, gate_up.weight, gate_up.scales) + gate_up.bias[slot]
        out = cpu_experts.product(swiglu(out, limit), slot, down.weight, down.scales) + down.bias[slot]
    else:
        out = _gather(rows[:, None], gate_up, slot, sorted_indices=True).squeeze(-2) + gate_up.bias[slot]
        out = _gather(swiglu(out, limit)[:, None], down, slot, sorted_indices=True).squeeze(-2) + down.bias[slot]
    out = out[mx.argsort(order)].reshape(T, k, H)
    return residual + (out.astype(mx.float32) * weights[..., None]).sum(axis=1)


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense) -> mx.array:
    """x [T, H] float32 to vocabulary logits [T, V] float32."""
    return dense(rms_norm(x, norm, eps), head).astype(mx.float32)


def norm_head_argmax(x: mx.array, norm: mx.array, eps: float, head: Dense) -> tuple[mx.array, mx.array]:
    """x [T, H] float32 to the token of each row's largest logit, [T] uint32, and a witness, [T] float32: some number,
    finite where all of the row's logits are.

    Equal logits go to the lower token. Where logits are not finite, it is one of the vocabulary.
    """
    logits = norm_head(x, norm, eps, head)
    return mx.argmax(logits, axis=-1), witness(logits)


def witness(values: mx.array) -> mx.array:
    """values [T, V] float32 to [T], finite where all of a row are: their sum, in which stays what is not."""
    return mx.sum(values, axis=-1)


def _gather(x: mx.array, experts: Experts, slot: mx.array, sorted_indices: bool = False) -> mx.array:
    # Up to MLX 0.32 its sorted product is wrong on M5 where a row ends within 64 columns (mlx issue 3887).
    whole = x.shape[-1] % 64 == 0
    return mx.gather_qmm(
        x,
        experts.weight,
        experts.scales,
        rhs_indices=slot,
        transpose=True,
        group_size=32,
        bits=4,
        mode="mxfp4",
        sorted_indices=sorted_indices and whole,
    )
