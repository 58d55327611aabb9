"""Convert blocks of rows from the published form of weights to a model folder's. Pure functions.

In shapes, G counts groups of 32 values, C columns, R rows.
"""

import mlx.core as mx
import numpy as np

from gptoss_mlx.model_folder.layout import Q8_BITS, Q8_GROUP


def words_from_blocks(blocks: np.ndarray) -> np.ndarray:
    """Return published MXFP4 codes, [..., G, 16] uint8, as a view in MLX's form, [..., 4 G] uint32.

    Both forms hold two codes in a byte, low nibble first, and MLX's words are little-endian.
    """
    return blocks.reshape(*blocks.shape[:-2], -1).view("<u4")


def quantize_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantize bfloat16 bits, [R, C] uint16, or float32 [R, C] to q8.

    Return weight [R, C/4] uint32, scales and biases [R, C/64] as bfloat16 bits. The format is MLX's affine mode. MLX
    chooses codes with scales that it then rounds to bfloat16. This function chooses the codes again with the rounded
    scales, which reduces the error on normal weights from 0.68% to 0.54%. Each group of 64 columns is independent, so
    the result does not depend on the cut into blocks of rows.
    """
    matrix = mx.array(rows) if rows.dtype == np.float32 else mx.array(rows).view(mx.bfloat16)
    _, scales, biases = mx.quantize(matrix, group_size=Q8_GROUP, bits=Q8_BITS)
    scales, biases = scales.astype(mx.bfloat16), biases.astype(mx.bfloat16)
    groups = matrix.reshape(len(rows), -1, Q8_GROUP).astype(mx.float32)
    steps = (groups - biases.astype(mx.float32)[..., None]) / scales.astype(mx.float32)[..., None]
    codes = mx.clip(mx.round(steps), 0, 255).astype(mx.uint8)
    return np.array(codes).reshape(len(rows), -1).view("<u4"), _bits(scales), _bits(biases)


def dequantize_rows(weight: np.ndarray, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Return rows of MLX's affine mode with 8 bits as float32 [R, C].

    ``weight`` is [R, C/4] uint32. ``scales`` and ``biases`` [R, groups] are bfloat16 bits or float32, and are computed
    with in float32, because in bfloat16 each value would be rounded.
    """
    group = 4 * weight.shape[1] // scales.shape[1]
    wide = (_floats(scales), _floats(biases))
    return np.array(mx.dequantize(mx.array(weight), *wide, group_size=group, bits=Q8_BITS))


def round_to_bf16(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return float32 values as bits of the nearest bfloat16, and how many of them are no bfloat16 numbers."""
    bits = _bits(mx.array(rows).astype(mx.bfloat16))
    return bits, int(np.count_nonzero(rows.view(np.uint32) & 0xFFFF))


def _floats(array: np.ndarray) -> mx.array:
    return mx.array(array) if array.dtype == np.float32 else mx.array(array).view(mx.bfloat16).astype(mx.float32)


def _bits(values: mx.array) -> np.ndarray:
    return np.array(values.view(mx.uint16))
