"""What the metadata of a gpt-oss GGUF file says of the model: its config and its special ids.

Known are llama.cpp's architecture ``gpt-oss`` and ollama's ``gptoss``. The swiglu constants and the alternation of
layers are not in a file, because both programs have them in their code. An entry that is not known is refused if it
could change the result, else listed.
"""

from collections.abc import Mapping
from typing import Any

from convert.sources.gguf_header import GgufArray, GgufHeader, Value
from gptoss_mlx.config import ModelConfig, read_config
from gptoss_mlx.errors import CheckpointError, quoted

ARCHITECTURES = ("gpt-oss", "gptoss")
INSTEAD = "get ggml-org's GGUF of the model, or the published checkpoint"

_NEEDED = {
    "block_count": "num_hidden_layers",
    "expert_count": "num_local_experts",
    "expert_used_count": "num_experts_per_tok",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
"""Entries that must be there, and the fields of config.json that mean the same."""
_ROPE_NEEDED = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}
_ROPE = {"rope.scaling.yarn_beta_fast": "beta_fast", "rope.scaling.yarn_beta_slow": "beta_slow"}
_IMPLEMENTED: dict[str, Value] = {
    "rope.scaling.type": "yarn",
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "attention.causal": True,
    "attention.sliding_window_pattern": 2,
    "leading_dense_block_count": 0,
    "expert_shared_count": 0,
    "nextn_predict_layers": 0,
}
"""The only values that are computed with. Where such an entry is missing, it has that value."""
_WITHOUT_EFFECT = ("rope.scaling.finetuned",)
_REFUSED_IF_UNKNOWN = ("rope.", "attention.", "expert_", "swiglu_")


def of_architecture(header: GgufHeader) -> dict[str, Value]:
    """Return the metadata of the architecture, without its prefix, and "architecture" itself.

    Raises CheckpointError for another architecture, and for an adapter alone.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{header.path}: general.architecture is {quoted(architecture)}; only gpt-oss ({ARCHITECTURES[0]!r}, or "
            f"ollama's {ARCHITECTURES[1]!r}) can be used"
        )
    if (kind := header.metadata.get("general.type", "model")) != "model":
        raise CheckpointError(
            f"{header.path}: general.type is {quoted(kind)}, so it holds no whole model; merge an adapter into its "
            "model first"
        )
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): value for key, value in header.metadata.items() if key.startswith(prefix)}
    return own | {"architecture": architecture}


def config_of(metadata: Mapping[str, Value], vocab_size: int, where: str) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the config in ``of_architecture``'s metadata, and the names of entries that are not used.

    ``vocab_size`` is the number of the embedding's rows. Raises CheckpointError, which names ``where``, when an entry
    is missing, or has a value or a name that could change the result and is not implemented.
    """
    architecture = metadata["architecture"]

    def value(key: str) -> Value:
        if key not in metadata:
            raise CheckpointError(f"{where}: no metadata entry '{architecture}.{key}'; {INSTEAD}")
        if isinstance(metadata[key], GgufArray):
            raise CheckpointError(f"{where}: {architecture}.{key} is an array, which gpt-oss does not have; {INSTEAD}")
        return metadata[key]

    wide = "expert_feed_forward_length" if "expert_feed_forward_length" in metadata else "feed_forward_length"
    scaling: dict[str, Any] = {"rope_type": "yarn", "truncate": False}
    scaling |= {field: value(key) for key, field in _ROPE_NEEDED.items()}
    scaling |= {field: value(key) for key, field in _ROPE.items() if key in metadata}
    raw: dict[str, Any] = {field: value(key) for key, field in _NEEDED.items()}
    raw |= {"model_type": "gpt_oss", "intermediate_size": value(wide), "rope_scaling": scaling}
    raw["vocab_size"] = vocab_size
    config, _ = read_config(raw, where)
    implemented = _IMPLEMENTED | {
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    for key, only in implemented.items():
        if key in metadata and metadata[key] != only:
            raise CheckpointError(
                f"{where}: {architecture}.{key} is {quoted(metadata[key])}, this program computes only {only!r}; "
                f"{INSTEAD}"
            )
    used = {*_NEEDED, *_ROPE_NEEDED, *_ROPE, *implemented, *_WITHOUT_EFFECT}
    used |= {"architecture", "feed_forward_length", "expert_feed_forward_length"}
    unknown = sorted(metadata.keys() - used)
    if meant := [key for key in unknown if key.startswith(_REFUSED_IF_UNKNOWN)]:
        raise CheckpointError(
            f"{where}: {architecture}.{meant[0]:.100} is {quoted(metadata[meant[0]])}, "
            f"which this program does not know; {INSTEAD}"
        )
    return config, tuple(f"{architecture}.{key}" for key in unknown)


def generation_of(metadata: Mapping[str, Value]) -> dict[str, Any] | None:
    """Return the special ids as generation_config.json spells them. ``None`` where the file names none."""
    found: dict[str, Any] = {}
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if _is_id(metadata.get(f"tokenizer.ggml.{key}")):
            found[name] = metadata[f"tokenizer.ggml.{key}"]
    stops = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    several = metadata.get("tokenizer.ggml.eos_token_ids")
    if isinstance(several, GgufArray) and several.count <= 100:
        stops += several.values() if several.kind != 8 else []
    if ids := list(dict.fromkeys(filter(_is_id, stops))):
        found["eos_token_id"] = ids
    return {"do_sample": True, **found} if found else None


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31
