"""The functions of ``draws`` on the CPU backend, where starting an MLX operation takes longer than a small model's
logits, and sorting a whole vocabulary longer than the rest of a draw.

It is in numpy, and of the likeliest it sorts only the ids that may pass the filters, in float64. Knows logits and
points; knows no options, no seeds and not what an id means.
"""

import mlx.core as mx
import numpy as np

from metal_kernels.draws import ONE

BELOW = 0.999
"""Scales the bound under which an id is too unlikely to pass ``share``. The margin is for rounding errors of 1e-16."""


def witness(values: mx.array) -> mx.array:
    """Run :func:`draws.witness`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return mx.array(np.sum(np.array(values, copy=False), axis=-1))


def scaled(logits: mx.array, temperature: float) -> mx.array:
    """Run :func:`draws.scaled`."""
    values = np.array(logits, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return mx.array((values - values.max(axis=-1, keepdims=True)) / np.float32(temperature))


def draw(logits: mx.array, point: mx.array) -> mx.array:
    """Run :func:`draws.draw`."""
    rows = zip(np.array(logits, copy=False), np.array(point).tolist(), strict=True)
    return mx.array([_reached(row, at) for row, at in rows], mx.uint32)


def _reached(logits: np.ndarray, point: float) -> int:
    if logits.max() != 0:  # only a row of NaN has no 0; its draw is not used, so any id will do
        return 0
    upto = np.cumsum((np.exp(logits) * np.float32(ONE)).astype(np.int64))
    total = int(upto[-1])
    return int(np.searchsorted(upto, int(point * 2**30) * total >> 30, side="right"))


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """Run :func:`draws.draw_among_likeliest` in float64."""
    rows = zip(np.array(logits, copy=False), np.array(point).tolist(), strict=True)
    return mx.array([_draw(row, at, ranks, share, least) for row, at in rows], mx.uint32)


def likeliest(logits: np.ndarray, ranks: int, share: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that pass the filters, in the order of their ranks, and their likelihoods, float64, of which the
    first is 1. logits are [V] float32, and the largest is 0."""
    ids = _first(logits, ranks)
    likely = np.exp(logits[ids].astype(np.float64))
    total = likely.sum()
    # The ids below this bound add up to less than 1 - share, so the others fill the share.
    bound = least if share == 1 else max(least, BELOW * (1 - share) * total / len(ids))
    passing = likely >= min(bound, 1.0)
    ids = ids[passing]
    likely = likely[passing]
    order = _order(logits[ids], ids)
    ids = ids[order]
    likely = likely[order]
    if share < 1:
        before = np.concatenate([[0.0], np.cumsum(likely)[:-1]])
        passing = before < share * total
        ids = ids[passing]
        likely = likely[passing]
    return ids, likely


def _draw(logits: np.ndarray, point: float, ranks: int, share: float, least: float) -> int:
    if logits.max() != 0:  # only a row of NaN has no 0; its draw is not used, so any id will do
        return 0
    ids, likely = likeliest(logits, ranks, share, least)
    upto = np.cumsum(likely)
    return int(ids[np.searchsorted(upto[:-1], point * upto[-1], side="right")])


def _first(logits: np.ndarray, ranks: int) -> np.ndarray:
    """Return the ids of the first ``ranks``, in no order. Of equal logits the lower ids are taken."""
    if ranks == len(logits):
        return np.arange(ranks)
    last = np.partition(logits, -ranks)[-ranks]
    above = np.flatnonzero(logits > last)
    return np.concatenate([above, np.flatnonzero(logits == last)[: ranks - len(above)]])


def _order(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return indices in falling order of ``logits``, none above 0; equal ones are in the order of ids. Logit and id
    make one integer, because that sorts fast."""
    rising = (
        (0.0 - logits).view(np.uint32).astype(np.uint64)
    )  # the bits of floats from 0 up have the order of the floats
    return np.argsort(rising << np.uint64(32) | ids.astype(np.uint64))
