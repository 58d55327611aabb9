"""The fields of a gpt-oss ``config.json``: their types, their spellings, and the values that are implemented.

A field that could change the result is read, or must have the value that this program computes with. Both published
layouts are known, and both names of the object with rotary parameters, whose fields are called ``rope.NAME`` here.
Knows nothing of what the values are used for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gptoss_mlx.errors import CheckpointError, quoted

_T = TypeVar("_T")

ROPE_OBJECTS = ("rope_scaling", "rope_parameters")
"""The object's name in transformers 4, and in transformers 5."""

IMPLEMENTED: dict[str, tuple[object, ...]] = {
    "attention_bias": (True,),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "swiglu_alpha": (1.702,),
    "partial_rotary_factor": (None, 1.0),
    "rope.partial_rotary_factor": (None, 1.0),
    "quantization_config.quant_method": ("mxfp4",),
}
"""The only values that are computed with, of fields of transformers' GptOssConfig and its rotary parameters."""

WITHOUT_EFFECT = frozenset(
    {
        # Training, and what else is returned beside the logits.
        "attention_dropout",
        "initializer_range",
        "router_aux_loss_coef",
        "output_router_logits",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "problem_type",
        "use_cache",
        # Names and versions. The name of a dtype is not needed, because every tensor's dtype is checked.
        "architectures",
        "model_type",
        "_name_or_path",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "quantization",  # mlx-lm's, and a copy of its quantization_config
        "id2label",
        "label2id",
        "is_encoder_decoder",
        # Ids are read from generation_config.json and the tokenizer.
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    }
)
"""Fields of GptOssConfig and its base class that cannot change the logits."""

_OPTIONAL_ROPE = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow")
_NULL_IS_ABSENT = ("layer_types", *(f"rope.{name}" for name in _OPTIONAL_ROPE))
"""Where transformers reads null as if the field were not there. Elsewhere null means something else, or nothing."""


@dataclass(frozen=True)
class Fields:
    """The fields of one config, which ``where`` names in errors. ``rope`` is the rotary object's name, or None.

    A reading method takes a field's spellings and the value if none of them is there. Without such a value a missing
    field raises CheckpointError, and so do spellings with different values. A value of another type raises TypeError.
    """

    values: dict[str, Any]
    where: str
    rope: str | None
    _asked: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, raw: Any, where: str) -> "Fields":
        """Raises CheckpointError for what is no JSON object, or has another value where an object must be."""
        if not isinstance(raw, dict):
            raise CheckpointError(f"{where}: not a JSON object; get the file again from the model's page")
        if dotted := [name for name in raw if name.startswith(("rope.", "quantization_config."))]:
            raise CheckpointError(f"{where}: {quoted(dotted[0])} is no field of a config; remove it")
        present = [name for name in ROPE_OBJECTS if raw.get(name) is not None]
        for name in (*present, "quantization_config"):
            if not isinstance(raw.get(name), dict | None):
                raise CheckpointError(f"{where}: {name} is no JSON object; get the file again from the model's page")
        if len(present) == 2 and _differ(*(raw[name] for name in present)):
            raise CheckpointError(f"{where}: {' and '.join(present)} differ; remove the one that is wrong")
        rope = present[0] if present else None
        values = {name: value for name, value in raw.items() if name not in (*ROPE_OBJECTS, "quantization_config")}
        values |= {f"rope.{name}": value for name, value in raw.get(rope, {}).items()} if rope else {}
        quantization = raw.get("quantization_config") or {}
        if (method := "quant_method") in quantization:  # nothing else in it can matter: dtypes and shapes are checked
            values[f"quantization_config.{method}"] = quantization[method]
        absent = [name for name in _NULL_IS_ABSENT if name in values and values[name] is None]
        return cls({name: value for name, value in values.items() if name not in absent}, where, rope)

    def whole(self, *names: str, default: int | None = None) -> int:
        return self._read(_whole, names, default)

    def real(self, *names: str, default: float | None = None) -> float:
        return self._read(_real, names, default)

    def flag(self, *names: str, default: bool | None = None) -> bool:
        return self._read(_flag, names, default)

    def text(self, *names: str, default: str | None = None) -> str:
        return self._read(_text, names, default)

    def names(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        return self._read(_names, (name,), default)

    def has(self, name: str) -> bool:
        return name in self.values

    def shown(self, name: str) -> str:
        """Return the field's name as the file spells it."""
        return name.replace("rope.", f"{self.rope}.", 1) if name.startswith("rope.") else name

    def refuse(self, name: str, reason: str) -> CheckpointError:
        """Return the error for a value that cannot be used."""
        value = quoted(self.values[name])
        return CheckpointError(f"{self.where}: {self.shown(name)} is {value}, {reason}; get a checkpoint without that")

    def check_rest(self) -> tuple[str, ...]:
        """Return the names of unknown fields, sorted. Call it when every field that is used has been read.

        Raises CheckpointError when a field that is not read has a value that would change the result, or when the
        rotary parameters have an unknown one.
        """
        for name, implemented in IMPLEMENTED.items():
            if name in self.values and not any(_same(self.values[name], value) for value in implemented):
                raise self.refuse(name, f"this program computes only {quoted(implemented[-1])}")
        unknown = sorted(self.values.keys() - self._asked - IMPLEMENTED.keys() - WITHOUT_EFFECT)
        for name in unknown:
            if name.startswith("rope.") and self.values[name] is not None:
                raise self.refuse(name, "a rotary parameter that this program does not know")
        return tuple(name for name in unknown if not name.startswith("rope."))

    def _read(self, read: Callable[[str, Any], _T], names: tuple[str, ...], default: _T | None) -> _T:
        self._asked.update(names)
        found = {name: read(self.shown(name), self.values[name]) for name in names if name in self.values}
        if not found:
            if default is None:
                raise CheckpointError(
                    f"{self.where}: no '{self.shown(names[0])}'; get the file again from the model's page"
                )
            return default
        first, *others = found
        for other in others:
            if found[other] != found[first]:
                raise self.refuse(first, f"but {self.shown(other)} is {quoted(found[other])}, and both mean the same")
        return found[first]


def _whole(name: str, value: Any) -> int:
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise TypeError(f"{name} is {quoted(value)}, not a whole number")


def _real(name: str, value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise TypeError(f"{name} is {quoted(value)}, not a number")


def _flag(name: str, value: Any) -> bool:
    if type(value) is bool:
        return value
    raise TypeError(f"{name} is {quoted(value)}, neither true nor false")


def _text(name: str, value: Any) -> str:
    if type(value) is str:
        return value
    raise TypeError(f"{name} is {quoted(value)}, not a name")


def _names(name: str, value: Any) -> tuple[str, ...]:
    if type(value) is list and all(type(one) is str for one in value):
        return tuple(value)
    raise TypeError(f"{name} is {quoted(value)}, not a list of names")


def _same(value: Any, implemented: object) -> bool:
    """Return whether two values are equal in JSON, where true is not 1."""
    return bool(value == implemented) and isinstance(value, bool) == isinstance(implemented, bool)


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except RecursionError:
        return True
