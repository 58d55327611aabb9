"""How likely a model finds a given sequence: the log-probability of each of its ids, and the likeliest ids there.

Reads the sequence once, chunk by chunk. Knows one sequence and no text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx

from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.scoring import scored
from gptoss_mlx.score import Score

ROWS = 64
"""Positions whose logits are computed at a time: 64 rows of the published vocabulary take 51 MB."""


@dataclass
class Scorer:
    """Scores ``ids`` but the first, which nothing precedes. ``top`` is how many of the likeliest ids are wanted."""

    context: Context
    ids: list[int]
    top: int
    chunk: int = PREFILL_CHUNK
    _read: int = field(default=0, init=False)

    @property
    def done(self) -> bool:
        """Return whether all have been scored."""
        return self._read >= len(self.ids) - 1

    def read(self) -> list[Score]:
        """Read one more chunk and return its scores, in order. Raises EngineError."""
        given = self.ids[self._read : min(self._read + self.chunk, len(self.ids) - 1)]
        targets = self.ids[self._read + 1 : self._read + 1 + len(given)]
        context = self.context
        with context.undone_on_error():
            hidden = context.model(mx.array([given]), context.cache)[0]
            scores = [score for at in range(0, len(given), ROWS) for score in self._score(hidden, targets, at)]
            context.ids += given
        self._read += len(given)
        return scores

    def _score(self, hidden: mx.array, targets: list[int], at: int) -> Iterator[Score]:
        wanted = mx.array(targets[at : at + ROWS])
        found = scored(self.context.model.logits(hidden[at : at + ROWS]), wanted, self.top)
        mx.eval(found, self.context.cache.arrays())
        yield from found.scores()


def scores_of(scorer: Scorer) -> list[Score]:
    """Return all scores that are left. Raises EngineError."""
    scores: list[Score] = []
    while not scorer.done:
        scores += scorer.read()
    return scores
