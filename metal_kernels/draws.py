"""Draws ids from logits in plain MLX. Each row has a point in [0, 1), and draws the first id at which the sum of
probabilities exceeds that part of the whole.

Probabilities are added up as whole numbers, which is exact. A sum of 200,000 small float32 is off by the probability of
a thousand ids. Knows no options, no seeds and not what an id means.
"""

import mlx.core as mx

ONE = 2.0**40
"""The whole number for a probability equal to the largest. It leaves room for 2**22 ids in 62 bits."""


def witness(values: mx.array) -> mx.array:
    """Return the sum of each row of values [T, V] float32, [T]: finite where the row is, because what is not finite
    stays in the sum."""
    return mx.sum(values, axis=-1)


def scaled(logits: mx.array, temperature: float) -> mx.array:
    """Return logits [B, V] over the temperature. Each row's largest becomes 0, so that no division can overflow
    upwards."""
    return (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature


def draw(logits: mx.array, point: mx.array) -> mx.array:
    """Draw ids [B] uint32 by logits [B, V] float32, of which each row's largest is 0, and point [B] float32.

    If logits are NaN, the id is any of the vocabulary.
    """
    return _reached(_units(logits), point)


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """Draw the same among the ids that pass three filters, in the order of their ranks.

    An id's rank is its place in falling order of the logits; of equal logits the lower id comes first. The first
    ``ranks`` ids pass the first filter. Their probabilities are scaled to add up to 1. Of these an id passes if those
    before it add up to less than ``share`` (or that is 1), and if it is at least ``least`` times as likely as the
    first. The first id always passes.
    """
    order = mx.argsort(-logits, axis=-1)[:, :ranks]
    ranked = mx.take_along_axis(logits, order, axis=-1)
    units = _units(ranked)
    fine = mx.exp(ranked) >= least
    if share < 1:
        upto = mx.cumsum(units, axis=-1)
        fine &= upto - units < _part(upto[:, -1:], mx.array(int(share * 2**30), mx.int64))
    fine[:, 0] = True
    rank = _reached(mx.where(fine, units, 0), point)
    return mx.take_along_axis(order, rank[:, None], axis=-1)[:, 0]


def _units(logits: mx.array) -> mx.array:
    """Return probabilities as whole numbers, int64."""
    return (mx.exp(logits) * ONE).astype(mx.int64)


def _reached(units: mx.array, point: mx.array) -> mx.array:
    """Return the first place at which the sum of units [B, V] exceeds the part ``point`` [B] of the whole: [B]
    uint32."""
    upto = mx.cumsum(units, axis=-1)
    target = _part(upto[:, -1:], (point[:, None] * 2.0**30).astype(mx.int64))
    return mx.minimum(mx.sum(upto <= target, axis=-1), units.shape[-1] - 1).astype(mx.uint32)


def _part(total: mx.array, part: mx.array) -> mx.array:
    """Return ``total`` times ``part`` / 2**30, rounded down, in 62 bits."""
    return part * (total >> 30) + ((part * (total & (2**30 - 1))) >> 30)
