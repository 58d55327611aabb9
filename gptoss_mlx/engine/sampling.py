"""Choosing the next token from logits: temperature first, then top-k, top-p and min-p, then one draw. It also checks
that the logits were finite. Knows no model and no sequence."""

import math
import secrets
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from gptoss_mlx.engine.constraint import restricted
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch

NOT_FINITE = (
    "the model's logits are not finite; if that happens again, run `gptoss-mac doctor --kernels`, or convert it again"
)

POINTS = 32
"""Random points computed at a time, on the CPU: starting that takes longer than a point, and a GPU need not be waited
for."""


def points(sampling: Sampling) -> Iterator[mx.array]:
    """Yield one random point in [0, 1) per token, [1] float32, derived from the seed or from system randomness. At
    temperature 0 yield the same one each time."""
    key = mx.random.key((secrets.randbits(64) if sampling.seed is None else sampling.seed) & (1 << 64) - 1)
    while True:
        drawn = [mx.zeros(1)] * POINTS
        for number in range(POINTS if sampling.temperature else 0):
            key, own = mx.random.split(key, stream=mx.cpu)
            drawn[number] = mx.random.uniform(shape=(1,), key=own, stream=mx.cpu)
        mx.eval(key, drawn)
        yield from drawn


class Drawn(NamedTuple):
    """Ids [B] uint32 that were drawn, and a ``witness`` [B] float32 for each, finite only if its logits are. Neither
    need be evaluated."""

    token: mx.array
    witness: mx.array

    def ids(self) -> list[int | None]:
        """Wait for the ids and return them, with None for one that was drawn from logits that are not finite."""
        ids, witnesses = np.array(self.token).tolist(), np.array(self.witness).tolist()
        return [id if math.isfinite(witness) else None for id, witness in zip(ids, witnesses, strict=True)]


def draw_token(logits: mx.array, sampling: Sampling, point: mx.array, mask: mx.array | None = None) -> Drawn:
    """Return one draw from logits [1, V] at ``point`` [1], with the witness of those logits. With a ``mask`` (see
    ``constraint.allowed``) only its ids are drawn, and only they are counted by the filters."""
    among = logits if mask is None else restricted(logits, mask)
    return Drawn(sample(among, sampling, point), launch.witness(logits))


def adjusted(logits: mx.array, sampling: Sampling, counts: Mapping[int, int]) -> mx.array:
    """Return logits [1, V] with the bias added and the penalties taken away. ``counts`` says how often the reply has
    which id."""
    change = dict(sampling.logit_bias)
    if sampling.penalizes:
        for id, count in counts.items():
            penalty = sampling.frequency_penalty * count + sampling.presence_penalty
            change[id] = change.get(id, 0.0) - penalty
    if not change:
        return logits
    return logits.at[:, mx.array(list(change))].add(mx.array(list(change.values()), logits.dtype))


def sample(logits: mx.array, sampling: Sampling, point: mx.array) -> mx.array:
    """Return token ids [B] uint32, each drawn from a row of logits [B, V] at its ``point`` [B]. They lie in the
    vocabulary even where the logits are not finite."""
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    logits = launch.scaled(logits, max(sampling.temperature, 1e-30))
    if not (sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return launch.draw(logits, point)
    ranks = min(sampling.top_k or logits.shape[1], logits.shape[1])
    return launch.draw_among_likeliest(logits, point, ranks, sampling.top_p, sampling.min_p)
