"""One line of the kernel report."""

from collections.abc import Mapping
from dataclasses import dataclass

from metal_kernels.emulator import Report
from tests.metal_kernels.shaders.common import Error

WEIGHTS = ("weight", "scales", "offsets", "router", "body", "tail", "kv")
"""Inputs that are matrices or a cache."""
SEVERAL = (1, 2, 4, 8)
"""The rows of the input with which the report counts loads."""


@dataclass(frozen=True)
class Several:
    """One shader with several rows of the input: bytes of all loads, of those of weights, and of the weights that it
    reads, each once."""

    operation: str
    rows: int
    issued: int
    weights: int
    unique_weights: int

    @classmethod
    def of(cls, operation: str, rows: int, counted: Report) -> "Several":
        weights = [use for name, use in counted.buffers.items() if name in WEIGHTS]
        issued, unique = (sum(getattr(use, what) for use in weights) for what in ("bytes_issued", "unique_bytes"))
        return cls(operation, rows, counted.bytes_issued, issued, unique)

    @property
    def loads_per_weight(self) -> float:
        """How often each weight is loaded, on average."""
        return self.weights / self.unique_weights


@dataclass(frozen=True)
class Row:
    """One shader: bytes it reads by buffer, the fewest it could read, errors as parts of the largest value, and
    threadgroups and waits for loads as the emulator's report has them."""

    operation: str
    issued: Mapping[str, int]
    unique: Mapping[str, int]
    fewest: Mapping[str, int]
    lines: int
    error: Error
    threadgroups: int
    waits: int
    stock_issued: int | None = None
    stock_error: Error | None = None

    @property
    def total(self) -> int:
        """The bytes of all loads."""
        return sum(self.issued.values())

    @property
    def unique_to_fewest(self) -> float:
        """The bytes read, each counted once, over the fewest it could read."""
        return sum(self.unique.values()) / sum(self.fewest.values())

    @property
    def weights(self) -> int:
        """The bytes of all loads of weights or of the cache."""
        return sum(self.issued.get(name, 0) for name in WEIGHTS)

    @property
    def loads_per_weight(self) -> float:
        """How often weights or the cache are loaded, as a part of the fewest bytes: the most of any of their arrays."""
        return max(self.issued[name] / self.fewest[name] for name in WEIGHTS if name in self.fewest)
