"""Compare a model folder with a checkpoint: invert the repack, and compare every value. Writes nothing.

Weights and config are compared, tokenizers are not. What is not q8 must be equal bit for bit, and so must q8 be where
the source has its codes. float32 values that the folder keeps as bfloat16 are rounded before they are compared, and
experts that the source has in full are quantized, as they were when they were converted. MXFP4 codes differ where their
bits do, even if both stand for the same value: a checkpoint and its copy with experts in full can differ.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from convert.assembly import ROUNDED
from convert.conversion import losses
from convert.pieces import NUMPY_DTYPE, Piece, Q8Rows, Reader, counting
from convert.repack import blocks_from_words, dequantize_rows, q8_error, round_to_bf16, widen_bf16
from convert.sources import Checkpoint, open_checkpoint
from convert.sources.checkpoint import bit_for_bit
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model_folder import ModelFolder, layout

REMEDY = "convert the checkpoint again, or name the one that this model was made from"
STRIP = 1 << 17
"""Values of q8 compared at once, so that what is computed of them stays in a processor's cache."""


@dataclass(frozen=True)
class Comparison:
    """What was compared and found equal: tensors bit for bit, q8 matrices within their bound.

    ``largest`` is the largest error of a q8 value in units of what is allowed to it (``repack.q8_error``), so at most
    1, and 0 without q8. ``losses`` are those of a conversion: how the values compared differ from the published ones.
    """

    exact: int
    q8: int
    largest: float
    losses: tuple[str, ...]


@dataclass
class _Found:
    """What was found of each tensor: how many values were compared, how many differ, and the largest q8 error."""

    values: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)


def compare(model: ModelFolder, source: str | Path, progress: Callable[[int, int], None] | None = None) -> Comparison:
    """Compare every tensor of a model folder with the checkpoint ``source``, in whichever form that is.

    ``progress`` is called with (source bytes read, source bytes in all). Raises ModelFolderError, which names the first
    tensor that differs and in how many values, CheckpointError when the source is unusable or changes meanwhile.
    """
    checkpoint = open_checkpoint(Path(source))
    _compare_configs(model, checkpoint)
    reader = Reader(counting(progress, checkpoint.nbytes))
    found = _Found()
    for _, pieces in groupby(checkpoint.pieces, key=lambda piece: piece.targets[0]):
        group = list(pieces)
        for piece in group:
            _compare_piece(model, piece, reader, found)
        for target in group[0].targets:
            if found.differing[target]:
                checkpoint.check_unchanged()
                raise ModelFolderError(_difference(model, checkpoint, target, found))
    checkpoint.check_unchanged()
    _check_complete(model, found)
    lost = losses(checkpoint, reader.tally)
    if (experts := checkpoint.experts(reader.tally)) != bit_for_bit(reader.tally):
        lost += (f"experts are {experts}",)
    return Comparison(
        exact=len(found.values) - len(found.largest),
        q8=len(found.largest),
        largest=max(found.largest.values(), default=0.0),
        losses=lost,
    )


def _compare_configs(model: ModelFolder, checkpoint: Checkpoint) -> None:
    """Raise ModelFolderError where a value differs in float32, which the model is computed in."""
    ours, theirs = (_flat(asdict(config)) for config in (model.config, checkpoint.config))
    for name, value in ours.items():
        if value != theirs[name]:
            other = f"in {checkpoint.folder} it is {theirs[name]}"
            raise ModelFolderError(f"{model.path / layout.CONFIG}: {name} is {value}, {other}; {REMEDY}")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: value for name, value in config.items() if isinstance(value, dict)}
    flat = {name: value for name, value in config.items() if name not in nested}
    flat |= {f"{name}.{inner}": value for name, values in nested.items() for inner, value in values.items()}
    return {name: float(np.float32(value)) if type(value) is float else value for name, value in flat.items()}


def _compare_piece(model: ModelFolder, piece: Piece, reader: Reader, found: _Found) -> None:
    places = [model.tensor(target) for target in piece.targets]
    offsets = [piece.start * (place.nbytes // place.shape[0]) for place in places]
    for arrays in piece.read(reader):
        for n, (target, rows) in enumerate(zip(piece.targets, arrays, strict=True)):
            if isinstance(rows, Q8Rows) and _is_q8(model, target):
                offsets[n] += _compare_codes(model, target, offsets[n], rows, found)
                continue
            if isinstance(rows, Q8Rows):
                rows = dequantize_rows(*rows)
            if _is_q8(model, target):
                offsets[n] += _compare_q8(model, target, offsets[n], rows, found)
            else:
                offsets[n] += _compare_bits(model, target, offsets[n], rows, reader, found)


def _compare_bits(model: ModelFolder, target: str, start: int, rows: np.ndarray, reader: Reader, found: _Found) -> int:
    """Compare rows with those at byte ``start`` of a tensor. Return how many bytes of it they are."""
    dtype = model.tensor(target).dtype
    if dtype == "BF16" and rows.dtype == np.float32:
        rows, changed = round_to_bf16(rows)
        reader.tally[ROUNDED + target] += changed
    elif dtype == "F32" and rows.dtype == np.uint16:
        rows = widen_bf16(rows)
    stored = model.read_part(target, start, rows.nbytes).view(NUMPY_DTYPE[dtype])
    if dtype == "U32":
        different = blocks_from_words(stored).reshape(rows.shape) ^ rows
        found.values[target] += 2 * rows.size
        found.differing[target] += int(np.count_nonzero(different & 15) + np.count_nonzero(different >> 4))
    else:
        bits = np.dtype(f"u{rows.itemsize}")
        found.values[target] += rows.size
        found.differing[target] += int(np.count_nonzero(stored.view(bits) != rows.view(bits).reshape(-1)))
    return rows.nbytes


def _compare_codes(model: ModelFolder, target: str, start: int, rows: Q8Rows, found: _Found) -> int:
    """Compare rows that are q8 in the source too, bit for bit. Return how many codes they are."""
    stem = target.removesuffix("weight")
    codes = model.read_part(target, start, rows.weight.nbytes).reshape(-1, layout.Q8_GROUP)
    different = codes != rows.weight.view(np.uint8).reshape(codes.shape)
    for kind, theirs in (("scales", rows.scales), ("biases", rows.biases)):
        ours = model.read_part(f"{stem}{kind}", start // layout.Q8_GROUP * 2, theirs.nbytes).view(np.uint16)
        different |= (ours != theirs.reshape(-1))[:, None]
    found.values[target] += different.size
    found.differing[target] += int(np.count_nonzero(different))
    return different.size


def _compare_q8(model: ModelFolder, target: str, start: int, rows: np.ndarray, found: _Found) -> int:
    """Compare rows [R, C] with the q8 codes at byte ``start`` of a tensor. Return how many codes they are."""
    stem = target.removesuffix("weight")
    shape = len(rows), -1
    codes = model.read_part(target, start, rows.size).view("<u4").reshape(shape)
    groups, first = rows.size // layout.Q8_GROUP, start // layout.Q8_GROUP
    scales, biases = (
        model.read_part(f"{stem}{kind}", 2 * first, 2 * groups).view(np.uint16).reshape(shape)
        for kind in ("scales", "biases")
    )
    found.values[target] += rows.size
    step = max(1, STRIP // rows.shape[1])
    for row in range(0, len(rows), step):
        strip = slice(row, row + step)
        with np.errstate(all="ignore"):  # a damaged scale may be zero or no number
            errors = np.nan_to_num(q8_error(rows[strip], codes[strip], scales[strip], biases[strip]), nan=np.inf)
        found.differing[target] += int(np.count_nonzero(errors > 1))
        found.largest[target] = max(found.largest.get(target, 0.0), float(errors.max()))
    return rows.size


def _is_q8(model: ModelFolder, target: str) -> bool:
    return not layout.is_expert(target) and model.tensor(target).dtype == "U32"


def _difference(model: ModelFolder, checkpoint: Checkpoint, target: str, found: _Found) -> str:
    values = f"{found.differing[target]:,} of {found.values[target]:,} values"
    how = f"differs from {checkpoint.folder} in {values}"
    if target in found.largest:
        factor = f"{found.largest[target]:.3g}"
        how = f"is further from {checkpoint.folder} than q8 allows in {values}, by a factor of up to {factor}"
    return f"{model.file_of(target)}: tensor '{target}' {how}; {REMEDY}"


def _check_complete(model: ModelFolder, found: _Found) -> None:
    """Raise ValueError unless every value of the folder was compared: a source's pieces have to make all of it."""
    for shard in layout.shards(model.config, "bf16"):
        for name, spec in shard.tensors.items():
            values = math.prod(spec.shape) * (8 if spec.dtypes == ("U32",) else 1)
            if found.values[name] != values:
                raise ValueError(f"{name}: {found.values[name]} of {values} values compared")
