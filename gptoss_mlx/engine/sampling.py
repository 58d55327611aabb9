"""Choosing the next token from logits: temperature first, then top-k, top-p and min-p, then one draw; and whether they
were logits to choose from at all."""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from gptoss_mlx.arguments import real, whole
from gptoss_mlx.errors import EngineError
from metal_kernels import launch as ops

NOT_FINITE = (
    "the model's logits are not finite; if that happens again, run `gptoss-mac doctor --kernels`, or convert it again"
)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest; 1.0 / 0 / 1.0 / 0.0 draws from the model as it is.

    Raises UsageError when a value is no number of its kind, or out of range.
    """

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
        vars(self).update(checked)  # numpy's as Python's: what is frozen is not set otherwise

    def keys(self) -> Iterator[mx.array]:
        """The random states of one draw after another: the seed's, or others at each call.

        Where nothing is drawn there is but one: nobody would evaluate its successors, and their graph would grow.
        """
        seed = secrets.randbits(64) if self.seed is None else self.seed
        key = draw = mx.random.key(seed & (1 << 64) - 1)
        while True:
            if self.temperature:
                key, draw = mx.random.split(key)
            yield draw


class Drawn(NamedTuple):
    """The next id [1] uint32, not waited for, and a ``witness`` [1] float32: finite where all of its logits are."""

    token: mx.array
    witness: mx.array

    def id(self) -> int:
        """The id, waited for. Raises EngineError where it was drawn from logits that are not finite."""
        if not math.isfinite(self.witness.item()):  # type: ignore[arg-type]
            raise EngineError(NOT_FINITE)
        return int(self.token.item())  # type: ignore[arg-type]


def drawn(logits: mx.array, sampling: Sampling, key: mx.array) -> Drawn:
    """One draw from logits [1, V]."""
    return Drawn(sample(logits, sampling, key), ops.witness(logits))


def sample(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """logits [B, V] to token ids [B] uint32, one draw for each row: of the vocabulary, whatever the logits are."""
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    # From the largest down: whatever is divided by, the likeliest stays at 0 and nothing overflows upwards.
    logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / max(sampling.temperature, 1e-30)
    point = mx.random.uniform(shape=logits.shape[:1], key=key)
    if not (sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return ops.draw(logits, point)
    ranks = min(sampling.top_k or logits.shape[1], logits.shape[1])
    return ops.draw_among_likeliest(logits, point, ranks, sampling.top_p, sampling.min_p)
