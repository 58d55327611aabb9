"""How tokens shall be drawn: values and their bounds. ``engine.sampling`` draws with them. Imports no mlx."""

import math
from dataclasses import dataclass

from gptoss_mlx.arguments import real, whole


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest. The defaults draw from the model's own distribution.
    ``seed`` None draws differently each time. Raises UsageError when a value has the wrong type or is out of range."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checked = {
            "temperature": real("temperature", self.temperature, 0, 100, "a number from 0 to 100"),
            "top_p": real("top_p", self.top_p, math.ulp(0), 1, "a number above 0 and at most 1"),
            "top_k": whole("top_k", self.top_k, 0, "a whole number, 0 (off) or more"),
            "min_p": real("min_p", self.min_p, 0, 1, "a number from 0 (off) to 1"),
            "seed": None if self.seed is None else whole("seed", self.seed),
        }
        vars(self).update(checked)  # numpy's numbers as Python's; a frozen dataclass cannot be set otherwise
