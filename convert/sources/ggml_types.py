"""ggml's number formats: their sizes, and the decoding of those that a gpt-oss GGUF file is converted from.

A format stores ``block`` consecutive values of a row in ``nbytes`` bytes. Only names and sizes are known of the formats
that cannot be converted. In shapes, R counts rows, C columns, G groups of 32 columns.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GgmlType:
    """A format of GGUF files: how many values a block has, and how many bytes."""

    name: str
    block: int
    nbytes: int


MXFP4 = "MXFP4"
MXFP4_PUBLISHED = "ollama's first MXFP4"
DENSE = ("F32", "F16", "BF16", "Q8_0")
"""Formats that dense weights are converted from."""

TYPES = {
    number: GgmlType(name, block, nbytes)
    for number, name, block, nbytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (4, MXFP4_PUBLISHED, 32, 17),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, MXFP4, 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
    )
}
"""By ggml's number of the type. Numbers and sizes are those of ``gguf.constants``, except 4: ggml no longer uses that
number, and ollama gave it to MXFP4 in August 2025, before ggml had 39."""
_BLOCK = np.dtype([("scale", "u1"), ("codes", "V16")])
"""A block of MXFP4."""
_SWAPS = ((4, 0x00F000F000F000F0), (8, 0x0000FF000000FF00), (16, 0x00000000FFFF0000))
"""Shifts and masks of the three exchanges by which eight bytes are parted into low and high nibbles."""
_AT_ONCE = 1 << 15
"""Words that stay in a processor's cache between the steps of an exchange. An even number, two words to a block."""
BY_NAME = {kind.name: kind for kind in TYPES.values()}


def row_nbytes(name: str, columns: int) -> int:
    """Return the bytes of a row, whose ``columns`` must be a multiple of the format's block."""
    kind = BY_NAME[name]
    return columns // kind.block * kind.nbytes


def decode_mxfp4(name: str, data: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return published codes [R, G, 16] and scales [R, G], both uint8, of rows of MXFP4, given as uint8 [bytes].

    A block is a scale and 16 bytes of codes. In a published byte are elements 2j (low nibble) and 2j + 1. In ggml's are
    elements j (low nibble) and j + 16; ollama's first files kept the published order.
    """
    blocks = data.view(_BLOCK)
    scales = np.ascontiguousarray(blocks["scale"]).reshape(-1, columns // 32)
    theirs = np.ascontiguousarray(blocks["codes"]).view("<u8")
    if name == MXFP4_PUBLISHED:
        return theirs.view(np.uint8).reshape(*scales.shape, 16), scales
    codes = np.empty_like(theirs)
    spare = np.empty(_AT_ONCE, np.uint64)
    for start in range(0, len(theirs), _AT_ONCE):
        words = theirs[start : start + _AT_ONCE]
        _part_nibbles(words, spare[: len(words)])
        # Of each block both low halves come first, which are elements 0 to 15.
        halves = words.view("<u4").reshape(-1, 2, 2)
        codes[start : start + _AT_ONCE].view("<u4").reshape(-1, 2, 2)[...] = halves.transpose(0, 2, 1)
    return codes.view(np.uint8).reshape(*scales.shape, 16), scales


def _part_nibbles(words: np.ndarray, spare: np.ndarray) -> None:
    """Move the low nibbles of the bytes of each uint64 into its low half, the high ones into the other, in order."""
    for shift, mask in _SWAPS:
        np.right_shift(words, np.uint64(shift), out=spare)
        np.bitwise_xor(words, spare, out=spare)
        np.bitwise_and(spare, np.uint64(mask), out=spare)
        np.bitwise_xor(words, spare, out=words)
        np.left_shift(spare, np.uint64(shift), out=spare)
        np.bitwise_xor(words, spare, out=words)


def decode_dense(name: str, data: np.ndarray) -> np.ndarray:
    """Return the values [N] of whole blocks in one of the DENSE formats, given as uint8 [bytes].

    BF16 yields its bits as uint16, every other format the exact values as float32. A block of Q8_0 is a float16 scale
    and 32 signed bytes.
    """
    if name == "BF16":
        return data.view("<u2")
    if name == "F32":
        return data.view("<f4")
    if name == "F16":
        return data.view("<f2").astype(np.float32)
    blocks = data.reshape(-1, 34)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    with np.errstate(invalid="ignore"):  # a damaged file's scale may be infinite
        values: np.ndarray = blocks[:, 2:].view(np.int8) * scales
    return values.reshape(-1)
