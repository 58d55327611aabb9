"""How likely a model found an id, as a value. Imports no mlx."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The natural logarithm of an id's probability, and the likeliest ids at its place with theirs, likeliest first."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...]
