"""The sizes and constants of a gpt-oss model, read from a checkpoint's config and checked.

Knows both published spellings of ``config.json``. Knows no tensors and no files. Field names are Hugging Face's.
"""

from dataclasses import asdict, dataclass
from typing import Any

from gptoss_mlx.errors import CheckpointError, quoted

SLIDING = "sliding_attention"
FULL = "full_attention"
MAX_LAYERS = 1024
LEAST = 1e-12
"""Constants must be larger, because float32 arithmetic with smaller ones overflows or loses all digits."""


@dataclass(frozen=True)
class RopeScaling:
    """Parameters of YaRN. gpt-oss never truncates its correction range to whole dimensions."""

    factor: float = 32.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_max_position_embeddings: int = 4096


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
    def from_dict(cls, raw: dict[str, Any], where: str = "config.json") -> "ModelConfig":
        """Return the config in a parsed ``config.json``, in the spelling of Hugging Face or of ``original/``.

        Raises CheckpointError, which names ``where``, when the architecture is another, or a value is missing or out of
        range.
        """
        if not isinstance(raw, dict):
            raise CheckpointError(f"{where}: not a JSON object; get the file again from the model's page")
        model_type = raw.get("model_type", "gpt_oss" if "num_experts" in raw else None)
        if model_type != "gpt_oss":
            raise CheckpointError(
                f"{where}: model_type is {quoted(model_type)}; only gpt-oss checkpoints ('gpt_oss') can be used"
            )
        rope: Any = next((raw[name] for name in ("rope_parameters", "rope_scaling") if raw.get(name) is not None), {})
        if not isinstance(rope, dict):
            raise CheckpointError(f"{where}: rope_scaling is no JSON object; get the file again from the model's page")
        rope_type = rope.get("rope_type", rope.get("type", "yarn"))
        if rope_type != "yarn":
            raise CheckpointError(f"{where}: rope_type is {quoted(rope_type)}; only YaRN, as gpt-oss has it, is known")
        if rope.get("truncate"):
            raise CheckpointError(f"{where}: rope 'truncate' is true; gpt-oss uses YaRN without truncation")

        def get(*names: str, default: Any = None) -> Any:
            for name in names:
                if raw.get(name) is not None:
                    return raw[name]
            if default is None:
                raise CheckpointError(f"{where}: no '{names[0]}'; get the file again from the model's page")
            return default

        def whole(*names: str, default: Any = None) -> int:
            return _whole(names[0], get(*names, default=default))

        def real(*names: str, default: float) -> float:
            """Return the value of the first name in ``rope``, else of any name in the config."""
            value = rope.get(names[0])
            return _real(names[0], get(*names, default=default) if value is None else value)

        try:
            layers = whole("num_hidden_layers")
            context = rope.get("original_max_position_embeddings")
            original_context = _whole(
                "original_max_position_embeddings",
                get("initial_context_length", default=4096) if context is None else context,
            )
            scaling = RopeScaling(
                factor=real("factor", "rope_scaling_factor", default=32.0),
                beta_fast=real("beta_fast", "rope_ntk_beta", default=32.0),
                beta_slow=real("beta_slow", "rope_ntk_alpha", default=1.0),
                original_max_position_embeddings=original_context,
            )
            config = cls(
                num_hidden_layers=layers,
                num_local_experts=whole("num_local_experts", "num_experts"),
                hidden_size=whole("hidden_size"),
                intermediate_size=whole("intermediate_size"),
                num_attention_heads=whole("num_attention_heads"),
                num_key_value_heads=whole("num_key_value_heads"),
                head_dim=whole("head_dim"),
                num_experts_per_tok=whole("num_experts_per_tok", "experts_per_token", default=4),
                vocab_size=whole("vocab_size"),
                sliding_window=whole("sliding_window", default=128),
                layer_types=_layer_types(raw.get("layer_types"), layers),
                rope_theta=real("rope_theta", default=150000.0),
                rope_scaling=scaling,
                max_position_embeddings=whole(
                    "max_position_embeddings", default=int(min(original_context * scaling.factor, 1 << 30))
                ),
                swiglu_limit=_real("swiglu_limit", get("swiglu_limit", default=7.0)),
                rms_norm_eps=_real("rms_norm_eps", get("rms_norm_eps", default=1e-5)),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{where}: a value has the wrong type ({error!s:.200}); get the file again"
            ) from error
        config._check(where)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the config in Hugging Face's spelling, as a model folder stores it."""
        raw = asdict(self)
        raw["layer_types"] = list(self.layer_types)
        raw["rope_scaling"] |= {"rope_type": "yarn", "truncate": False}
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
            ("swiglu_limit", self.swiglu_limit, 1e6),
            ("rms_norm_eps", self.rms_norm_eps, 1.0),
        ):
            need(LEAST < number <= most, f"{name} is out of range")


def _whole(name: str, value: Any) -> int:
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise TypeError(f"{name} is {quoted(value)}, not a whole number")


def _real(name: str, value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise TypeError(f"{name} is {quoted(value)}, not a number")


def _layer_types(value: Any, layers: int) -> tuple[str, ...]:
    if value is None:
        return tuple(SLIDING if i % 2 == 0 else FULL for i in range(min(layers, MAX_LAYERS)))
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value):
        raise TypeError(f"layer_types is {quoted(value)}, not a list of names")
    return tuple(value)
