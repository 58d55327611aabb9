"""Choosing the next token from logits: temperature first, then top-k, top-p and min-p, then one draw."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the likeliest; 1.0 / 0 / 1.0 / 0.0 draws from the model as it is.

    Raises UsageError when a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        def need(fine: bool, name: str, allowed: str) -> None:
            if not fine:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {allowed}")

        need(0 <= self.temperature <= 100, "temperature", "from 0 to 100")
        need(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        need(self.top_k >= 0, "top_k", "0 (off) or more")
        need(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1")

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


def sample(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """logits [B, V] to token ids [B] uint32, one draw for each row."""
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    # From the largest down: whatever is divided by, the likeliest stays at 0 and nothing overflows upwards.
    logits = (logits - mx.max(logits, axis=-1, keepdims=True)) / max(sampling.temperature, 1e-30)
    if sampling.top_k or sampling.top_p < 1 or sampling.min_p:
        return _sample_filtered(logits, sampling, key)
    return mx.random.categorical(logits, key=key)


def _sample_filtered(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    """All three filters work on the logits in falling order, so they are sorted once. The likeliest always stays."""
    order = mx.argsort(-logits, axis=-1)
    if 0 < sampling.top_k < order.shape[-1]:
        order = order[:, : sampling.top_k]
    ranked = mx.take_along_axis(logits, order, axis=-1)
    probabilities = mx.softmax(ranked, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1) - probabilities  # mass of those likelier
    keep = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[:, :1])
    keep[:, 0] = True
    drawn = mx.random.categorical(mx.where(keep, ranked, -mx.inf), key=key)
    return mx.take_along_axis(order, drawn[:, None], axis=-1)[:, 0]
