"""Choose among ways to do one thing by the rates that they reach while they are used. Knows nothing of the thing."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

AGAIN = 32
"""Uses in which each way has its turn once, because what was slower may have become faster."""


@dataclass
class Fastest(Generic[T]):
    """``ways`` and the rates that they have reached, the last uses counting most. Rates are all in one unit."""

    ways: tuple[T, ...]
    rates: dict[T, float] = field(default_factory=dict, init=False)
    uses: int = field(default=0, init=False)

    def choose(self) -> T:
        """Return the way to use now: one that has not been tried, the fastest, or at times the next one."""
        untried = [way for way in self.ways if way not in self.rates]
        if untried:
            return untried[0]
        turn = self.uses % AGAIN
        return self.ways[turn] if turn < len(self.ways) else max(self.rates, key=self.rates.__getitem__)

    def measured(self, way: T, rate: float) -> None:
        """Take the rate of one use into account."""
        self.rates[way] = (self.rates.get(way, rate) + rate) / 2
        self.uses += 1
