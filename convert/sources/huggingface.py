"""The layout of the Hugging Face repositories: separate q, k and v, ``model.layers.N`` names."""

from dataclasses import replace

from convert.sources.checkpoint import SourceSpec, target_specs
from gptoss_mlx.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"

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


def source_specs(config: ModelConfig) -> dict[str, SourceSpec]:
    """Map each source tensor's name to what it must be and the tensor of ours it belongs to."""
    kv = config.num_key_value_heads * config.head_dim
    qkv_rows = {"q": config.num_attention_heads * config.head_dim, "k": kv, "v": kv}
    found: dict[str, SourceSpec] = {}
    for target, whole in target_specs(config).items():
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
