"""One draw from logits in plain MLX, by a point of its own in [0, 1) for each row: the first id up to which there is
more than that part of the probability.

Probabilities are added up as whole numbers: a sum of 200,000 small float32 drifts by as many of them as a thousand ids
have, one of whole numbers is exact. Knows no options, no seeds, nothing of what an id means.
"""

import mlx.core as mx

ONE = 2.0**40
"""What a probability equal to the largest counts for. Leaves room for 2**22 ids in 62 bits."""


def draw(logits: mx.array, point: mx.array) -> mx.array:
    """logits [B, V] float32, the largest of each row 0, and point [B] float32 to ids [B] uint32.

    Where logits are NaN, the id is one of the vocabulary.
    """
    return _reached(_units(logits), point)


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """The same among the ids that pass three filters, taken in the order of their ranks.

    An id's rank is its place in falling order of the logits, of equal ones the lower id first. The first ``ranks``
    pass, and of these, their probabilities adding up to 1, those before which there is less than ``share`` (all, where
    that is 1) and which are at least ``least`` times as likely as the first. The first always passes.
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
    return (mx.exp(logits) * ONE).astype(mx.int64)


def _reached(units: mx.array, point: mx.array) -> mx.array:
    """units [B, V] to the first place up to which there is more than the part ``point`` of their sum, [B] uint32."""
    upto = mx.cumsum(units, axis=-1)
    target = _part(upto[:, -1:], (point[:, None] * 2.0**30).astype(mx.int64))
    return mx.minimum(mx.sum(upto <= target, axis=-1), units.shape[-1] - 1).astype(mx.uint32)


def _part(total: mx.array, part: mx.array) -> mx.array:
    """``total`` times ``part`` / 2**30, rounded down, in 62 bits."""
    return part * (total >> 30) + ((part * (total & (2**30 - 1))) >> 30)
