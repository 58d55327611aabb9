"""How likely a model finds ids by its logits, and which it finds likeliest. Knows no model and no sequence."""

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from gptoss_mlx.score import Score


class Scored(NamedTuple):
    """The log-probabilities [B] of ids, and [B, top] the likeliest ids with theirs, in no order. None need be
    evaluated."""

    own: mx.array
    likeliest: mx.array
    values: mx.array

    def scores(self) -> list[Score]:
        """Wait for them and return them, one for each row."""
        found = []
        for logprob, ids, values in zip(*map(np.array, self), strict=True):
            order = np.argsort(-values, kind="stable")
            found.append(Score(float(logprob), tuple((int(ids[i]), float(values[i])) for i in order)))
        return found


def scored(logits: mx.array, ids: mx.array, top: int) -> Scored:
    """Return how likely ``ids`` [B] are by logits [B, V], and the ``top`` likeliest."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(logprobs, ids[:, None].astype(mx.int32), axis=-1)[:, 0]
    if not top:
        return Scored(own, mx.zeros((len(ids), 0), mx.int32), mx.zeros((len(ids), 0)))
    best = mx.argpartition(-logprobs, top - 1, axis=-1)[:, :top].astype(mx.int32)
    return Scored(own, best, mx.take_along_axis(logprobs, best, axis=-1))
