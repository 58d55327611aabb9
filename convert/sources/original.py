"""The layout of the ``original/`` folders: q, k and v stacked as in a model folder, ``block.N`` names, no tokenizer."""

from collections.abc import Mapping
from pathlib import Path

from convert.pieces import SourceTensor
from convert.sources.checkpoint import SourceSpec, Weights, pieces_of, stored_parts, target_specs
from gptoss_mlx.config import ModelConfig

EMBEDDING = "embedding.weight"

_TOP = {"embedding.weight": EMBEDDING, "norm.weight": "norm.scale", "head.weight": "unembedding.weight"}
_LAYER = {
    "attn_norm.weight": "attn.norm.scale",
    "qkv.weight": "attn.qkv.weight",
    "qkv.bias": "attn.qkv.bias",
    "sinks": "attn.sinks",
    "o.weight": "attn.out.weight",
    "o.bias": "attn.out.bias",
    "mlp_norm.weight": "mlp.norm.scale",
    "router.weight": "mlp.gate.weight",
    "router.bias": "mlp.gate.bias",
    "experts.gate_up.weight": "mlp.mlp1_weight.blocks",
    "experts.gate_up.scales": "mlp.mlp1_weight.scales",
    "experts.gate_up.bias": "mlp.mlp1_bias",
    "experts.down.weight": "mlp.mlp2_weight.blocks",
    "experts.down.scales": "mlp.mlp2_weight.scales",
    "experts.down.bias": "mlp.mlp2_bias",
}


def holds(found: Mapping[str, SourceTensor]) -> bool:
    """Return whether tensors are of this layout."""
    return EMBEDDING in found


def weights(folder: Path, found: Mapping[str, SourceTensor], config: ModelConfig) -> Weights:
    """Return the pieces of a folder's tensors. Raises CheckpointError when one is missing, unknown or wrong."""
    return Weights(pieces_of(folder, found, stored_parts(source_specs(config))))


def source_specs(config: ModelConfig) -> dict[str, SourceSpec]:
    """Map each source tensor's name to what it must be and the tensor of ours it belongs to."""
    found: dict[str, SourceSpec] = {}
    for target, whole in target_specs(config).items():
        if target in _TOP:
            found[_TOP[target]] = whole
        else:
            _, n, rest = target.split(".", 2)
            found[f"block.{n}.{_LAYER[rest]}"] = whole
    return found
