"""The grouped expert product on the CPU backend, where MLX decodes a weight once for every row.

It is in numpy. It decodes each expert once, a block of rows at a time, so that the block is in cache when BLAS reads
it. Knows MXFP4; knows nothing of routing.
"""

import mlx.core as mx
import numpy as np

BLOCK_VALUES = 1 << 20
"""Float32 values decoded at a time: 4 MB, which stays in the caches between decoding and use."""

CODES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""FP4 E2M1, by code (OCP Microscaling Formats 1.0)."""


def _four_codes() -> np.ndarray:
    """Return four float32 values for each two bytes, lowest nibble first, as one 16-byte element, which ``take`` moves
    whole."""
    words = np.arange(1 << 16, dtype=np.uint32)
    values = np.stack([CODES[(words >> shift) & 15] for shift in (0, 4, 8, 12)], axis=-1)
    return values.view(np.complex128)[:, 0]


FOUR_CODES = _four_codes()
SCALES = np.exp2(np.arange(256) - 127.0).astype(np.float64)


def product(x: mx.array, slot: mx.array, weight: mx.array, scales: mx.array) -> mx.array:
    """Multiply x [T, C], row t by the expert in slot[t], to [T, R] in the dtype of x, in float32.

    ``slot`` is sorted. weight [S, R, C / 8] uint32 and scales [S, R, C / 32] uint8 are MXFP4.
    """
    columns = np.ascontiguousarray(np.array(x.astype(mx.float32)).T)  # [C, T]
    codes = np.array(weight, copy=False).view(np.uint16)
    exponents = np.array(scales, copy=False)
    C, T = columns.shape
    R = codes.shape[1]
    out = np.empty((R, T), np.float32)
    step = max(1, min(R, BLOCK_VALUES // C))
    block = np.empty((step, C), np.float32)
    present, starts = np.unique(np.array(slot), return_index=True)
    for expert, start, stop in zip(present, starts, [*starts[1:], T], strict=True):
        rows = np.ascontiguousarray(columns[:, start:stop])
        for r in range(0, R, step):
            part = codes[expert, r : r + step]
            decoded = block[: len(part)]
            np.take(FOUR_CODES, part, out=decoded.view(np.complex128), mode="clip")
            grouped = decoded.reshape(len(part), C // 32, 32)
            np.multiply(grouped, SCALES[exponents[expert, r : r + step], None].astype(np.float32), out=grouped)
            out[r : r + step, start:stop] = decoded @ rows
    return mx.array(out.T).astype(x.dtype)
