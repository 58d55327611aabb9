"""One line of the kernel report."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.kernel_checks.common import Error

WEIGHTS = ("weight", "scales", "biases", "router", "body", "tail", "added")
"""Matrices, and a cache."""


@dataclass(frozen=True)
class Row:
    """One operation: bytes by buffer as counted, the fewest it could read, and errors as parts of the largest value."""

    operation: str
    issued: Mapping[str, int]
    unique: Mapping[str, int]
    fewest: Mapping[str, int]
    lines: int
    error: Error
    stock_issued: int | None = None
    stock_error: Error | None = None

    @property
    def total(self) -> int:
        return sum(self.issued.values())

    @property
    def unique_to_fewest(self) -> float:
        return sum(self.unique.values()) / sum(self.fewest.values())

    @property
    def weights_once(self) -> bool:
        """Whether each byte of weights, scales and cache that has to be read is loaded exactly once."""
        return all(self.issued[name] == self.fewest[name] for name in WEIGHTS if name in self.fewest)
