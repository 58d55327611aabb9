"""How likely a model finds a given sequence: the log-probability of each of its ids, the likeliest ids, all logits.

Reads the sequence once, chunk by chunk. Knows one sequence and no text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import mlx.core as mx

from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.scoring import scored
from gptoss_mlx.errors import UsageError
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


def logits_of(context: Context, tokens: list[list[int]] | mx.array, chunk: int) -> mx.array:
    """Return the logits [B, L, V] float32 of token ids [B, L], read into an empty ``context`` that nobody uses
    afterwards. Raises UsageError if ``tokens`` is not such an array or holds an id outside the vocabulary."""
    vocabulary = context.model.config.vocab_size
    try:
        ids = mx.array(tokens)
    except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: an id that no integer type holds
        raise UsageError("tokens must be rows of ids, all of one length") from error
    if ids.ndim != 2 or ids.size == 0 or not mx.issubdtype(ids.dtype, mx.integer):
        raise UsageError(f"tokens must be integers of shape [batch, length]; they are {ids.dtype} {ids.shape}")
    if mx.min(ids).item() < 0 or mx.max(ids).item() >= vocabulary:  # type: ignore[operator]
        raise UsageError(f"a token lies outside the vocabulary of {vocabulary}")
    parts = []
    for start in range(0, ids.shape[1], chunk):
        parts.append(context.model.logits(context.model(ids[:, start : start + chunk], context.cache)))
        mx.eval(parts[-1], context.cache.arrays())
    return mx.concatenate(parts, axis=1)
