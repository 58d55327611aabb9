"""Folders that mlx-lm wrote, such as those of mlx-community: Hugging Face names, with gate and up of each expert apart.

A quantized matrix has ``weight`` as words, ``scales`` and, in MLX's affine modes, ``biases``; its mode, bits and group
size follow from dtypes and shapes. Experts are MXFP4 as published, or in full where ``--dequantize`` was given.
Attention, router, embedding and head are bfloat16 or affine with 8 bits. Their codes stay what they are where groups
have 64 columns, because that is q8, so that nothing is rounded twice. Coarser ones are refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from convert.pieces import FLOATS, Arrays, Piece, Q8Rows, Reader, SourceTensor
from convert.repack import dequantize_rows
from convert.sources import float_experts
from convert.sources.checkpoint import Part, SourceSpec, Weights, bit_for_bit, pieces_of, stored_parts
from convert.sources.float_experts import alternating
from convert.sources.huggingface import EXPERTS, source_specs
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model_folder.layout import Q8_BITS, Q8_GROUP

_BITS, _GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
"""The bits and group sizes of MLX's affine mode."""
_BLOCK_MODES = {(4, 32): "MXFP4", (8, 32): "MXFP8", (4, 16): "NVFP4"}
"""Modes whose scales are bytes, by bits and group size."""
_INSTEAD = "get a folder named MXFP4-Q8, or the published checkpoint"


def holds(found: Mapping[str, SourceTensor]) -> bool:
    """Return whether tensors are of this layout."""
    return any(name.endswith(f"{EXPERTS}gate_proj.weight") for name in found)


def weights(folder: Path, found: Mapping[str, SourceTensor], config: ModelConfig) -> Weights:
    """Return the pieces of a folder's tensors. Raises CheckpointError when one is missing, unknown or wrong."""
    pieces = pieces_of(folder, found, _parts(config, found))
    full = [source for piece in pieces if len(piece.targets) == 2 for source in piece.sources]
    coarse = sorted({piece.targets[0] for piece in pieces if len(piece.sources) == 3})
    losses = (f"{len(coarse)} tensors, such as {coarse[0]}, had 8 bits in the source already",) if coarse else ()
    return Weights(pieces, float_experts.described(full) if full else bit_for_bit, lambda tally: losses)


def _parts(config: ModelConfig, found: Mapping[str, SourceTensor]) -> Iterator[Part]:
    rows: dict[str, int] = {}
    for part in stored_parts(source_specs(config)):
        [(name, spec)] = part.specs.items()
        start = rows.get(spec.target, 0)
        rows[spec.target] = start + spec.shape[0]
        if EXPERTS in name:
            yield from _expert_parts(name, spec, found)
        elif len(spec.shape) == 2 and (_dtype(found, name) == "U32" or f"{name[:-6]}scales" in found):
            yield _affine(name, spec, start, found)
        else:
            yield part


def _expert_parts(name: str, spec: SourceSpec, found: Mapping[str, SourceTensor]) -> Iterator[Part]:
    """Yield the part of an expert tensor, where ``name`` and ``spec`` are the published ones."""
    linear, kind = name.rsplit("_", 1)
    halves = ("gate_proj", "up_proj") if linear.endswith("gate_up_proj") else ("down_proj",)
    linears = [linear[: linear.rindex(".") + 1] + half for half in halves]
    experts, rows, *blocks = spec.shape
    shape = (experts, rows // len(halves))
    piece = partial(_experts, target=spec.target)
    if kind == "bias":
        first = found.get(f"{linears[0]}.bias")
        alike = (first.tensor.dtype,) if first and first.tensor.dtype in FLOATS else FLOATS
        yield Part({f"{one}.bias": replace(spec, dtypes=alike, shape=shape) for one in linears}, piece)
    elif all(_dtype(found, f"{one}.weight") in FLOATS for one in linears):
        if kind == "blocks":
            own = replace(spec, dtypes=FLOATS, shape=(*shape, blocks[0] * 32))
            stem = spec.target.removesuffix(".weight")
            yield Part({f"{one}.weight": own for one in linears}, partial(float_experts.piece, stem=stem))
    elif kind == "blocks":
        for one in linears:
            packing = _packing(found, one, (*shape, blocks[0] * 32))
            if packing not in (None, "MXFP4"):
                file = found[f"{one}.weight"].file
                raise CheckpointError(f"{file}: experts are {packing}, not MXFP4 as published; {_INSTEAD}")
        own = replace(spec, dtypes=("U32",), shape=(*shape, blocks[0] * 4))
        yield Part({f"{one}.weight": own for one in linears}, piece)
    else:
        yield Part({f"{one}.scales": replace(spec, shape=(*shape, *blocks)) for one in linears}, piece)


def _experts(sources: tuple[SourceTensor, ...], target: str) -> Piece:
    """Return the piece of all experts' codes, scales or biases, [E, R, ...] in each source. Rows of two alternate."""
    dtype = sources[0].tensor.dtype

    def read(reader: Reader) -> Iterator[Arrays]:
        for arrays in reader.rows(sources):
            rows = alternating([array.reshape(-1, *array.shape[2:]) for array in arrays])
            if dtype == "U32":
                rows = rows.view(np.uint8).reshape(len(rows), -1, 16)
            yield (rows if dtype in ("U32", "U8") else rows.reshape(len(arrays[0]), -1),)

    published = {"U32": "U8", "F16": "F32"}.get(dtype, dtype)
    verbatim = len(sources) == 1 and dtype != "F16"
    return Piece((target,), 0, sources[0].tensor.shape[0], sources, published, read, verbatim)


def _affine(name: str, spec: SourceSpec, start: int, found: Mapping[str, SourceTensor]) -> Part:
    """Return the part of a quantized dense matrix. Raises CheckpointError when it has not 8 bits."""
    rows, columns = spec.shape
    stem = name.removesuffix("weight")
    packing = _packing(found, stem.removesuffix("."), spec.shape)
    kept = {f"affine with {Q8_BITS} bits in groups of {group}": group for group in _GROUPS}
    if packing and packing not in kept:
        file = found[name].file
        raise CheckpointError(f"{file}: tensor '{name}' is {packing}, too coarse outside the experts; {_INSTEAD}")
    groups = columns // kept.get(packing or "", Q8_GROUP)
    scales = replace(spec, dtypes=FLOATS, shape=(rows, groups))
    words = replace(spec, dtypes=("U32",), shape=(rows, columns * Q8_BITS // 32))
    specs = {name: words, f"{stem}scales": scales, f"{stem}biases": scales}
    return Part(specs, partial(_affine_piece, target=spec.target, start=start))


def _affine_piece(sources: tuple[SourceTensor, ...], target: str, start: int) -> Piece:
    weight, scales, biases = (source.tensor for source in sources)
    same = (weight.shape[1] * 4 == scales.shape[1] * Q8_GROUP) and scales.dtype == biases.dtype == "BF16"

    def read(reader: Reader) -> Iterator[tuple[np.ndarray | Q8Rows, ...]]:
        for arrays in reader.rows(sources):
            yield (Q8Rows(*arrays) if same else dequantize_rows(*arrays),)

    return Piece((target,), start, weight.shape[0], sources, "U32" if same else "F32", read)


def _dtype(found: Mapping[str, SourceTensor], name: str) -> str | None:
    return found[name].tensor.dtype if name in found else None


def _packing(found: Mapping[str, SourceTensor], linear: str, shape: tuple[int, ...]) -> str | None:
    """Return how a matrix [..., C] is quantized, in words, or None if its tensors are those of no mode of MLX."""
    if not {f"{linear}.weight", f"{linear}.scales"} <= found.keys():
        return None
    weight, scales = (found[f"{linear}.{kind}"].tensor for kind in ("weight", "scales"))
    if weight.dtype != "U32" or not weight.shape[:-1] == scales.shape[:-1] == shape[:-1] or not scales.shape[-1]:
        return None
    bits, odd = divmod(weight.shape[-1] * 32, shape[-1])
    group, odd_group = divmod(shape[-1], scales.shape[-1])
    if odd or odd_group:
        return None
    if scales.dtype == "U8":
        return _BLOCK_MODES.get((bits, group))
    return f"affine with {bits} bits in groups of {group}" if bits in _BITS and group in _GROUPS else None
