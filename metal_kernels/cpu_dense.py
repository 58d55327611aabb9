"""The product with a bfloat16 matrix on the CPU backend, where MLX adds up in bfloat16.

It is in numpy. It opens a block of rows to float32 at a time, so that the block is in cache when BLAS reads it. Knows
only the matrix and the rows.
"""

import mlx.core as mx
import numpy as np

BLOCK_VALUES = 1 << 19
"""Float32 values opened at a time: 2 MB."""


def product(x: mx.array, weight: mx.array) -> mx.array:
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
