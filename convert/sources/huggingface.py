"""The layout of the Hugging Face repositories: separate q, k and v, ``model.layers.N`` names.

Fine-tunes may have float32 or float16 where the published models have bfloat16.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert.pieces import FLOATS, SourceTensor
from convert.sources.checkpoint import SourceSpec, Weights, pieces_of, stored_parts, target_specs
from gptoss_mlx.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
EXPERTS = "mlp.experts."
"""Before the names of expert tensors, in a layer."""

_TOP = {"embedding.weight": EMBEDDING, "norm.weight": "model.norm.weight", "head.weight": "lm_head.weight"}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "sinks": "self_attn.sinks",
    "o.weight": "self_attn.o_proj.weight",
    "o.bias": "self_attn.o_proj.bias",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "router.weight": "mlp.router.weight",
    "router.bias": "mlp.router.bias",
    "experts.gate_up.weight": "mlp.experts.gate_up_proj_blocks",
    "experts.gate_up.scales": "mlp.experts.gate_up_proj_scales",
    "experts.gate_up.bias": "mlp.experts.gate_up_proj_bias",
    "experts.down.weight": "mlp.experts.down_proj_blocks",
    "experts.down.scales": "mlp.experts.down_proj_scales",
    "experts.down.bias": "mlp.experts.down_proj_bias",
}


def holds(found: Mapping[str, SourceTensor]) -> bool:
    """Return whether tensors are of this layout, or of one of those that differ from it in the experts only."""
    return EMBEDDING in found


def weights(folder: Path, found: Mapping[str, SourceTensor], config: ModelConfig) -> Weights:
    """Return the pieces of a folder's tensors. Raises CheckpointError when one is missing, unknown or wrong."""
    return Weights(pieces_of(folder, found, stored_parts(source_specs(config))))


def untied(raw: dict[str, Any], found: Mapping[str, SourceTensor]) -> tuple[dict[str, Any], dict[str, SourceTensor]]:
    """Return the config and the tensors of a model whose head is its embedding as if it had both."""
    head, embedding = "lm_head.", EMBEDDING.removesuffix("weight")
    if raw.get("tie_word_embeddings") is not True or any(name.startswith(head) for name in found):
        return raw, dict(found)
    both = {head + name.removeprefix(embedding): found[name] for name in found if name.startswith(embedding)}
    return {name: value for name, value in raw.items() if name != "tie_word_embeddings"}, {**found, **both}


def source_specs(config: ModelConfig) -> dict[str, SourceSpec]:
    """Map each source tensor's name to what it must be and the tensor of ours it belongs to."""
    kv = config.num_key_value_heads * config.head_dim
    qkv_rows = {"q": config.num_attention_heads * config.head_dim, "k": kv, "v": kv}
    found: dict[str, SourceSpec] = {}
    for target, whole in target_specs(config).items():
        if "BF16" in whole.dtypes:
            whole = replace(whole, dtypes=FLOATS)
        if target in _TOP:
            found[_TOP[target]] = whole
            continue
        _, n, rest = target.split(".", 2)
        if rest in ("qkv.weight", "qkv.bias"):
            for letter, rows in qkv_rows.items():
                name = f"model.layers.{n}.self_attn.{letter}_proj.{rest.removeprefix('qkv.')}"
                found[name] = replace(whole, shape=(rows, *whole.shape[1:]))
        else:
            found[f"model.layers.{n}.{_LAYER[rest]}"] = whole
    return found
