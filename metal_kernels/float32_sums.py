"""The plain operations on MLX's CPU backend: the bodies of ``reference``, with products that add up in float32.

MLX's own kernels there add up in bfloat16. Over 2,880 columns, a q8 product of up to three rows was off by 12% of its
largest value (over 4,096 by 9%), one with a bfloat16 matrix by 0.5%, one through experts by 1.9%, a q8 embedding by
0.5%; the router's and attention's were within rounding. Knows no shader; ``launch`` decides when these run.
"""

from functools import partial

import mlx.core as mx
import numpy as np

from metal_kernels import reference
from metal_kernels.operands import Attention, Dense, Experts

MANY_ROWS = 4
"""From this many rows on, a quantized product costs more than decoding the weight once."""
BLOCK_VALUES = 1 << 19
"""Float32 values opened at a time: 2 MB, so that they are in cache when BLAS reads them."""


def dense(x: mx.array, layer: Dense) -> mx.array:
    """Project x [..., C] to [..., R] float32."""
    x = x.astype(mx.float32)
    if layer.scales is None or layer.offsets is None:
        opened = layer.weight.dtype == mx.bfloat16
        out = _bfloat16_product(x, layer.weight) if opened else x @ layer.weight.T
    else:
        affine = layer.weight, layer.scales.astype(mx.float32), layer.offsets.astype(mx.float32)
        if x.size // x.shape[-1] >= MANY_ROWS:
            out = x @ mx.dequantize(*affine, group_size=64, bits=8).T
        else:
            out = mx.quantized_matmul(x, *affine, group_size=64, bits=8)
    return out if layer.bias is None else out + layer.bias


def _bfloat16_product(x: mx.array, weight: mx.array) -> mx.array:
    """Multiply x [..., C] float32 by weight [R, C] bfloat16, to [..., R] float32, adding up in float32."""
    R, C = weight.shape
    columns = np.ascontiguousarray(np.array(x, copy=False).reshape(-1, C).T)
    bits = np.array(weight.view(mx.uint16), copy=False)
    out = np.empty((R, columns.shape[1]), np.float32)
    step = max(1, BLOCK_VALUES // C)
    block = np.empty((min(step, R), C), np.uint32)
    for r in range(0, R, step):
        part = bits[r : r + step]
        opened = block[: len(part)]
        np.left_shift(part, 16, out=opened, dtype=np.uint32)
        out[r : r + step] = opened.view(np.float32) @ columns
    return mx.array(out.T).reshape(*x.shape[:-1], R)


def grouped(rows: mx.array, slot: mx.array, experts: Experts) -> mx.array:
    """Multiply rows [T, C], row t by the weight in slot[t], to [T, R] float32. ``slot`` is sorted."""
    return reference.grouped(rows, slot, experts._replace(bias=experts.bias.astype(mx.float32)))


def prefill_attention(q: mx.array, k: mx.array, v: mx.array, layer: Attention) -> mx.array:
    """As :func:`reference.prefill_attention`, in float32."""
    return reference.prefill_attention(q, k.astype(mx.float32), v, layer)


norm_qkv_rope = partial(reference.norm_qkv_rope, product=dense)
output_residual = partial(reference.output_residual, product=dense)
expert_gate_up = partial(reference.expert_gate_up, product_dtype=mx.float32)
expert_down_residual = partial(reference.expert_down_residual, product_dtype=mx.float32)
expert_mlp_grouped = partial(reference.expert_mlp_grouped, product=grouped)
expert_mlp_in_passes = partial(reference.expert_mlp_in_passes, product=grouped)
norm_head = partial(reference.norm_head, product=dense)
norm_head_argmax = partial(reference.norm_head_argmax, product=dense)
