"""What a row may draw: which ids are allowed next, and which ones follow without a choice.

Knows ids, masks and where a step is undone. Knows no text, and not where the rules come from: ``grammars`` does.
"""

from typing import Protocol

import mlx.core as mx
import numpy as np

from gptoss_mlx.errors import ConstraintError

BITS = 32
"""Ids in one word of a mask."""


class Constraint(Protocol):
    """The rules of one sequence, and how far it has come. All methods but ``rewind`` may raise ConstraintError."""

    @property
    def end(self) -> int:
        """The id that ends a sequence that is complete."""

    @property
    def length(self) -> int:
        """How many ids have been accepted."""

    def accept(self, id: int) -> None:
        """Go on by an id, which must be allowed."""

    def forced(self) -> list[int]:
        """Return the ids that must follow, before anything is to be chosen. None of them has been accepted."""

    def mask(self) -> np.ndarray:
        """Return which ids may follow: uint32 words, of which the first's lowest bit is that of id 0. Ids past the
        last word may not."""

    def rewind(self, length: int) -> None:
        """Forget all ids but the first ``length``."""


def follow(constraint: Constraint, id: int | None) -> list[int]:
    """Accept ``id``, if there is one, and all ids that it forces. Return those."""
    if id is not None:
        constraint.accept(id)
    followed: list[int] = []
    while forced := constraint.forced():
        for one in forced:
            followed.append(one)
            if one == constraint.end:
                return followed
            constraint.accept(one)
    return followed


def allowed(constraint: Constraint, vocabulary: int) -> mx.array:
    """Return the mask of the ids that may follow, [vocabulary / BITS, rounded up] uint32. Raises ConstraintError if
    there is none: what such a row would draw lies outside its rules."""
    words = -(-vocabulary // BITS)
    given = constraint.mask()[:words]
    mask = np.zeros(words, np.uint32)
    mask[: len(given)] = given
    if vocabulary % BITS:
        mask[-1] &= (1 << vocabulary % BITS) - 1
    if not mask.any():
        raise ConstraintError("nothing that the grammar allows is in the model's vocabulary")
    return mx.array(mask)


def restricted(logits: mx.array, mask: mx.array) -> mx.array:
    """Return logits [1, V] with minus infinity where ``mask`` has no bit."""
    bits = (mask[:, None] >> mx.arange(BITS, dtype=mx.uint32)) & 1
    return mx.where(bits.reshape(1, -1)[:, : logits.shape[-1]] == 1, logits, -mx.inf)
