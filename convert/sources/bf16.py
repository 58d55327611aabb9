"""Fine-tunes whose experts are stored in full, under the Hugging Face names: they are quantized to MXFP4.

transformers and unsloth save one tensor for all experts of a layer, ``experts.gate_up_proj`` [E, H, 2I] and
``experts.down_proj`` [E, I, H]. These are transposed: their columns are the rows of the published matrices. A model
that unsloth has split into linear layers, and that was merged and saved by peft, has tensors for each expert,
``experts.gate_up_projs.N.weight`` [2I, H] and ``experts.down_projs.N.weight`` [H, I], with biases, and its router is
called ``router.linear``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from convert.pieces import FLOATS, Piece, SourceTensor, as_stored, stacked
from convert.sources import float_experts
from convert.sources.checkpoint import Part, SourceSpec, Weights, pieces_of, stored_parts
from convert.sources.huggingface import EXPERTS, source_specs
from gptoss_mlx.config import ModelConfig

_SPLIT_ROUTER = "mlp.router.linear."


def holds(found: Mapping[str, SourceTensor]) -> bool:
    """Return whether tensors are of this layout."""
    return any(name.endswith((f"{EXPERTS}gate_up_proj", f"{EXPERTS}gate_up_projs.0.weight")) for name in found)


def weights(folder: Path, found: Mapping[str, SourceTensor], config: ModelConfig) -> Weights:
    """Return the pieces of a folder's tensors. Raises CheckpointError when one is missing, unknown or wrong."""
    split = any("_projs." in name for name in found)
    pieces = pieces_of(folder, found, _parts(config, split, any(_SPLIT_ROUTER in name for name in found)))
    quantized = [source for piece in pieces if len(piece.targets) == 2 for source in piece.sources]
    return Weights(pieces, float_experts.described(quantized))


def _parts(config: ModelConfig, split: bool, split_router: bool) -> Iterator[Part]:
    for part in stored_parts(source_specs(config)):
        [(name, spec)] = part.specs.items()
        if split_router and ".mlp.router." in name:
            yield replace(part, specs={name.replace(".mlp.router.", f".{_SPLIT_ROUTER}"): spec})
        elif EXPERTS not in name or (name.endswith("_bias") and not split):
            yield part
        elif split:
            yield from _split(name, spec)
        elif name.endswith("_blocks"):
            yield _fused(name, spec)


def _fused(name: str, spec: SourceSpec) -> Part:
    """Return the part of a layer's gate_up or down, where ``name`` and ``spec`` are those of the published blocks."""
    experts, rows, groups, _ = spec.shape
    own = SourceSpec(spec.target, FLOATS, (experts, groups * 32, rows))
    stem = spec.target.removesuffix(".weight")
    return Part({name.removesuffix("_blocks"): own}, partial(float_experts.piece, stem=stem, transposed=True))


def _split(name: str, spec: SourceSpec) -> Iterator[Part]:
    """Yield the part of each expert, for a published tensor of all experts."""
    linear, kind = name.rsplit("_", 1)
    for expert in range(spec.shape[0]):
        if kind == "blocks":
            own = replace(spec, dtypes=FLOATS, shape=(spec.shape[1], spec.shape[2] * 32))
            stem = spec.target.removesuffix(".weight")
            yield Part({f"{linear}s.{expert}.weight": own}, partial(float_experts.piece, stem=stem, start=expert))
        elif kind == "bias":
            own = replace(spec, shape=spec.shape[1:])
            yield Part({f"{linear}s.{expert}.bias": own}, partial(_bias, target=spec.target, start=expert))


def _bias(sources: tuple[SourceTensor, ...], target: str, start: int) -> Piece:
    return as_stored(target, start, stacked(sources[0]), whole=False)
