"""The sizes and constants of a gpt-oss model, read from a checkpoint's config and checked.

Knows what they mean, and what a missing one is. Knows no tensors and no files. Field names are Hugging Face's.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from gptoss_mlx.config_fields import Fields
from gptoss_mlx.errors import CheckpointError, quoted

SLIDING = "sliding_attention"
FULL = "full_attention"
MAX_LAYERS = 1024
LEAST = 1e-12
"""Constants must be larger, because float32 arithmetic with smaller ones overflows or loses all digits."""


@dataclass(frozen=True)
class RopeScaling:
    """Parameters of YaRN. ``truncate`` rounds its correction range to whole dimensions, which gpt-oss does not do.

    cos and sin are multiplied by ``attention_factor``. The default is that of ``factor``'s.
    """

    factor: float = 32.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_max_position_embeddings: int = 4096
    truncate: bool = False
    attention_factor: float = 0.1 * math.log(32.0) + 1


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one model. The defaults are the values that both published models share."""

    num_hidden_layers: int
    num_local_experts: int
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 64
    num_experts_per_tok: int = 4
    vocab_size: int = 201088
    sliding_window: int = 128
    layer_types: tuple[str, ...] = ()
    rope_theta: float = 150000.0
    rope_scaling: RopeScaling = RopeScaling()
    max_position_embeddings: int = 131072
    swiglu_limit: float = 7.0
    rms_norm_eps: float = 1e-5

    @classmethod
    def from_dict(cls, raw: Any, where: str = "config.json") -> "ModelConfig":
        """Return the config in a parsed ``config.json``. Raises what ``read_config`` raises."""
        return read_config(raw, where)[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the config in Hugging Face's spelling, as a model folder stores it."""
        raw = asdict(self)
        raw["layer_types"] = list(self.layer_types)
        raw["rope_scaling"] |= {"rope_type": "yarn"}
        return {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], **raw}

    def _check(self, where: str) -> None:
        def need(condition: bool, problem: str) -> None:
            if not condition:
                raise CheckpointError(f"{where}: {problem}; get the file again from the model's page")

        counts = {name: value for name, value in asdict(self).items() if type(value) is int}
        for name, value in counts.items():
            need(0 < value <= 1 << 24, f"{name} is {value if value.bit_length() < 64 else 'huge'}")
        need(self.num_hidden_layers <= MAX_LAYERS, f"num_hidden_layers is {self.num_hidden_layers}")
        need(self.num_attention_heads % self.num_key_value_heads == 0, "query heads are no multiple of key/value heads")
        need(self.head_dim % 2 == 0, f"head_dim {self.head_dim} is odd")
        need(self.num_experts_per_tok <= self.num_local_experts, "more experts per token than experts")
        need(self.hidden_size % 32 == 0, f"hidden_size {self.hidden_size} is no multiple of 32")
        need(self.intermediate_size % 32 == 0, f"intermediate_size {self.intermediate_size} is no multiple of 32")
        need(len(self.layer_types) == self.num_hidden_layers, "layer_types does not have one entry per layer")
        unknown = [kind for kind in self.layer_types if kind not in (SLIDING, FULL)]
        need(not unknown, f"unknown layer_types {quoted(unknown)}")
        scaling = self.rope_scaling
        for name, number, most in (
            ("rope_theta", self.rope_theta - 1.0, 1e12),
            ("rope factor", scaling.factor, 1e6),
            ("rope beta_fast", scaling.beta_fast, 1e6),
            ("rope beta_slow", scaling.beta_slow, 1e6),
            ("rope attention_factor", scaling.attention_factor, 1e6),
            ("swiglu_limit", self.swiglu_limit, 1e6),
            ("rms_norm_eps", self.rms_norm_eps, 1.0),
        ):
            need(LEAST < number <= most, f"{name} is out of range")


def read_config(raw: Any, where: str = "config.json") -> tuple[ModelConfig, tuple[str, ...]]:
    """Read a parsed ``config.json`` in the spelling of Hugging Face or of ``original/``.

    Return the config, and the names of fields that are unknown and not used, sorted.

    Raises CheckpointError, which names ``where``, when the architecture is another, or a value is missing, out of
    range, or not implemented.
    """
    fields = Fields.of(raw, where)
    model_type = fields.values.get("model_type", "gpt_oss" if fields.has("num_experts") else None)
    if model_type != "gpt_oss":
        raise CheckpointError(
            f"{where}: model_type is {quoted(model_type)}; only gpt-oss checkpoints ('gpt_oss') can be used"
        )
    try:
        layers = fields.whole("num_hidden_layers")
        scaling = _rope_scaling(fields)
        most_positions = scaling.original_max_position_embeddings * scaling.factor
        config = ModelConfig(
            num_hidden_layers=layers,
            num_local_experts=fields.whole("num_local_experts", "num_experts"),
            hidden_size=fields.whole("hidden_size"),
            intermediate_size=fields.whole("intermediate_size"),
            num_attention_heads=fields.whole("num_attention_heads"),
            num_key_value_heads=fields.whole("num_key_value_heads"),
            head_dim=fields.whole("head_dim", default=64),
            num_experts_per_tok=fields.whole("num_experts_per_tok", "experts_per_token", default=4),
            vocab_size=fields.whole("vocab_size"),
            sliding_window=fields.whole("sliding_window", default=128),
            layer_types=fields.names("layer_types", default=_alternating(layers)),
            rope_theta=fields.real("rope.rope_theta", "rope_theta", default=150000.0),
            rope_scaling=scaling,
            max_position_embeddings=fields.whole("max_position_embeddings", default=int(min(most_positions, 1 << 30))),
            swiglu_limit=fields.real("swiglu_limit", default=7.0),
            rms_norm_eps=fields.real("rms_norm_eps", default=1e-5),
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: a value has the wrong type ({error!s:.200}); get the file again") from error
    config._check(where)
    return config, fields.check_rest()


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """Return what YaRN multiplies into cos and sin: 0.1 ``mscale`` ln(factor) + 1, or 1 without scaling."""
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _rope_scaling(fields: Fields) -> RopeScaling:
    """Read YaRN's parameters. Where a field is missing its value is that of transformers 5.

    Those of ``original/``, and of a config without the object, are complete by themselves. In an object, transformers
    takes a missing ``truncate`` for true, and a missing ``rope_type`` for no scaling at all.
    """
    given = fields.rope is not None
    rope_type = fields.text("rope.rope_type", "rope.type", default=None if given else "yarn")
    if rope_type != "yarn":
        name = "rope.rope_type" if fields.has("rope.rope_type") else "rope.type"
        raise fields.refuse(name, "this program computes only 'yarn'")
    factor = fields.real("rope.factor", "rope_scaling_factor", default=None if given else 32.0)
    original = ("rope.original_max_position_embeddings", "original_max_position_embeddings", "initial_context_length")
    if given and not fields.has(original[0]):
        raise CheckpointError(f"{fields.where}: no '{fields.shown(original[0])}'; get the file again")
    return RopeScaling(
        factor=factor,
        beta_fast=fields.real("rope.beta_fast", "rope_ntk_beta", default=32.0),
        beta_slow=fields.real("rope.beta_slow", "rope_ntk_alpha", default=1.0),
        original_max_position_embeddings=fields.whole(*original, default=4096),
        truncate=fields.flag("rope.truncate", default=given),
        attention_factor=_attention_factor(fields, factor),
    )


def _attention_factor(fields: Fields, factor: float) -> float:
    """Return ``attention_factor``, or what transformers infers from ``factor``, ``mscale`` and ``mscale_all_dim``."""
    mscale = fields.real("rope.mscale", default=1.0)
    all_dims = fields.real("rope.mscale_all_dim", default=0.0)
    if fields.has("rope.attention_factor"):
        return fields.real("rope.attention_factor")
    if mscale and all_dims and fields.has("rope.mscale"):
        return yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, all_dims)
    # transformers ignores one without the other. DeepSeek's definition of the two does not.
    for name, value, neutral in (("rope.mscale", mscale, 1.0), ("rope.mscale_all_dim", all_dims, 0.0)):
        if value != neutral:
            raise fields.refuse(name, "which programs read differently without the other mscale")
    return yarn_attention_factor(factor)


def _alternating(layers: int) -> tuple[str, ...]:
    return tuple(SLIDING if i % 2 == 0 else FULL for i in range(min(layers, MAX_LAYERS)))


PUBLISHED = {
    "20b": ModelConfig(24, 32, layer_types=_alternating(24)),
    "120b": ModelConfig(36, 128, layer_types=_alternating(36)),
}
"""The configs of the published models."""
