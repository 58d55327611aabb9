"""A draw among the likeliest on the CPU backend, where to sort a whole vocabulary takes longer than all else in a draw.

In numpy and float64: of all ids only those are sorted that may pass the filters. Knows logits and points; nothing of
options, seeds or what an id means.
"""

import mlx.core as mx
import numpy as np

BELOW = 0.999
"""Of the bound under which an id is too unlikely to come before the share is full: a margin for rounding, 1e-16."""


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """As :func:`draws.draw_among_likeliest`, in float64."""
    rows = zip(np.array(logits, copy=False), np.array(point).tolist(), strict=True)
    return mx.array([_draw(row, at, ranks, share, least) for row, at in rows], mx.uint32)


def likeliest(logits: np.ndarray, ranks: int, share: float, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The ids that pass the filters, in the order of their ranks, and how likely they are, the first 1, float64.

    logits [V] float32, the largest 0.
    """
    ids = _first(logits, ranks)
    likely = np.exp(logits[ids].astype(np.float64))
    total = likely.sum()
    # Those below this have less than 1 - share between them: the others fill the share without them.
    bound = least if share == 1 else max(least, BELOW * (1 - share) * total / len(ids))
    passing = likely >= min(bound, 1.0)
    ids, likely = ids[passing], likely[passing]
    order = _order(logits[ids], ids)
    ids, likely = ids[order], likely[order]
    if share < 1:
        before = np.concatenate([[0.0], np.cumsum(likely)[:-1]])
        ids, likely = ids[before < share * total], likely[before < share * total]
    return ids, likely


def _draw(logits: np.ndarray, point: float, ranks: int, share: float, least: float) -> int:
    if logits.max() != 0:  # as only NaN are here: any id will do, none is used
        return 0
    ids, likely = likeliest(logits, ranks, share, least)
    upto = np.cumsum(likely)
    return int(ids[np.searchsorted(upto[:-1], point * upto[-1], side="right")])


def _first(logits: np.ndarray, ranks: int) -> np.ndarray:
    """The ids of the first ``ranks``, in no order; of equal logits the lower ids are among them."""
    if ranks == len(logits):
        return np.arange(ranks)
    last = np.partition(logits, -ranks)[-ranks]
    above = np.flatnonzero(logits > last)
    return np.concatenate([above, np.flatnonzero(logits == last)[: ranks - len(above)]])


def _order(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Indices in falling order of ``logits``, none above 0, equal ones by id: as one integer each, which sorts fast."""
    rising = (0.0 - logits).view(np.uint32).astype(np.uint64)  # bits of floats from 0 up order as they do
    return np.argsort(rising << np.uint64(32) | ids.astype(np.uint64))
