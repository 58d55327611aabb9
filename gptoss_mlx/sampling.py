"""How tokens shall be drawn: values and their bounds. ``engine.sampling`` draws with them. Imports no mlx."""

import math
from dataclasses import dataclass
from typing import Any

from gptoss_mlx.arguments import real, whole
from gptoss_mlx.errors import UsageError, quoted


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest. The defaults draw from the model's own distribution.
    ``seed`` None draws differently each time. Before all else ``logit_bias``, pairs of an id and a number, is added to
    the logits, and of each id that the reply has already, ``presence_penalty`` once and ``frequency_penalty`` as often
    as it has it are taken away, as OpenAI defines them. Raises UsageError when a value has the wrong type or is out of
    range."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        checked = {
            "temperature": real("temperature", self.temperature, 0, 100, "a number from 0 to 100"),
            "top_p": real("top_p", self.top_p, math.ulp(0), 1, "a number above 0 and at most 1"),
            "top_k": whole("top_k", self.top_k, 0, "a whole number, 0 (off) or more"),
            "min_p": real("min_p", self.min_p, 0, 1, "a number from 0 (off) to 1"),
            "presence_penalty": real("presence_penalty", self.presence_penalty, -2, 2, "a number from -2 to 2"),
            "frequency_penalty": real("frequency_penalty", self.frequency_penalty, -2, 2, "a number from -2 to 2"),
            "logit_bias": _pairs(self.logit_bias),
            "seed": None if self.seed is None else whole("seed", self.seed),
        }
        vars(self).update(checked)  # numpy's numbers as Python's; a frozen dataclass cannot be set otherwise

    @property
    def penalizes(self) -> bool:
        """Return whether a draw depends on the ids before it."""
        return bool(self.presence_penalty or self.frequency_penalty)

    @property
    def adjusts(self) -> bool:
        """Return whether logits are changed before a draw."""
        return self.penalizes or bool(self.logit_bias)

    def check(self, vocabulary: int) -> None:
        """Raise UsageError for a bias of an id outside a vocabulary of that many ids."""
        for id, _ in self.logit_bias:
            if id >= vocabulary:
                raise UsageError(f"logit_bias has the id {id}, which is outside the vocabulary of {vocabulary}")


def _pairs(given: Any) -> tuple[tuple[int, float], ...]:
    try:
        pairs = tuple((id, value) for id, value in given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"logit_bias is {quoted(given, 40)}; it must be pairs of an id and a number") from error
    return tuple(
        (whole("logit_bias has an id that", id, 0), real("logit_bias", value, -100, 100, "numbers from -100 to 100"))
        for id, value in pairs
    )
