"""Experts that are stored in full, in bfloat16, float16 or float32, and are quantized to MXFP4 as they are read."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from convert.mxfp4 import Quantized, quantize_mxfp4
from convert.pieces import REDOWNLOAD, Arrays, Piece, Reader, SourceTensor, stacked
from gptoss_mlx.errors import CheckpointError

ERROR, POWER = "expert error", "expert power"
"""In a reader's tally: sums of squares over all experts, of what quantizing changed and of the values."""
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def piece(sources: tuple[SourceTensor, ...], stem: str, start: int = 0, transposed: bool = False) -> Piece:
    """Return the piece of expert matrices of a target ``stem``, from expert ``start`` on.

    A source has a matrix [R, C] for each expert, or is one. It is [C, R] if ``transposed``. The rows of two sources
    alternate in the target. One matrix of each is in memory at a time.
    """
    stacks = [source if len(source.tensor.shape) == 3 else stacked(source) for source in sources]

    def quantized(source: SourceTensor, matrix: np.ndarray, reader: Reader) -> Quantized:
        found = quantize_mxfp4(matrix.T if transposed else matrix)
        if not math.isfinite(found.error):
            raise CheckpointError(
                f"{source.file}: tensor '{source.name}' has a value that is not finite; get weights from a training "
                f"that succeeded, or {REDOWNLOAD}"
            )
        reader.count(ERROR, found.error)
        reader.count(POWER, found.power)
        return found

    def read(reader: Reader) -> Iterator[Arrays]:
        for blocks in reader.rows(stacks):
            for matrices in zip(*blocks, strict=True):
                parts = [quantized(*pair, reader) for pair in zip(sources, matrices, strict=True)]
                yield alternating([part.blocks for part in parts]), alternating([part.scales for part in parts])

    return Piece((f"{stem}.weight", f"{stem}.scales"), start, stacks[0].tensor.shape[0], sources, "U8", read)


def alternating(parts: list[np.ndarray]) -> np.ndarray:
    """Return the rows of equal arrays [R, ...] in turn: the first of each, then the second of each."""
    if len(parts) == 1:
        return parts[0]
    return np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def described(sources: Iterable[SourceTensor]) -> Callable[[Mapping[str, float]], str]:
    """Return the function that says, from a reader's tally, how experts of these sources became MXFP4."""
    dtypes = sorted({_NAMES[source.tensor.dtype] for source in sources})

    def experts(tally: Mapping[str, float]) -> str:
        origin = f"MXFP4, quantized from {' and '.join(dtypes)}"
        if not tally.get(ERROR):
            return f"{origin}, every value kept"
        return f"{origin}, error {100 * math.sqrt(tally[ERROR] / tally[POWER]):.2g}%"

    return experts
