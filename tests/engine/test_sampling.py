"""Draws follow the distribution the options describe."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.sampling import Sampling, sample
from gptoss_mlx.errors import UsageError

P = np.array([0.4, 0.05, 0.3, 0.15, 0.1])
DRAWS = 20000


def frequencies(**options):
    sampling = Sampling(**options)
    logits = mx.broadcast_to(mx.array(np.log(P), mx.float32), (DRAWS, len(P)))
    drawn = np.array(sample(logits, sampling, next(sampling.keys())))
    return np.bincount(drawn, minlength=len(P)) / DRAWS


def kept(*indices, power=1.0):
    q = np.zeros_like(P)
    q[list(indices)] = P[list(indices)] ** power
    return q / q.sum()


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, P),
        ({"temperature": 0.5}, kept(0, 1, 2, 3, 4, power=2)),
        ({"top_k": 2}, kept(0, 2)),
        ({"top_k": 10**30}, P),
        ({"top_p": 0.69}, kept(0, 2)),  # 0.4 + 0.3 reach it
        ({"top_p": 0.71}, kept(0, 2, 3)),
        ({"top_p": 1e-9}, kept(0)),
        ({"min_p": 0.3}, kept(0, 2, 3)),  # at least 0.3 x 0.4
        ({"min_p": 1.0}, kept(0)),
        ({"temperature": 2.0, "top_k": 3, "top_p": 0.6}, kept(0, 2, power=0.5)),
        ({"temperature": 0}, kept(0)),
        ({"temperature": 1e-40}, kept(0)),
        ({"temperature": 1e-320, "top_k": 3}, kept(0)),
    ],
)
def test_frequencies(options, want):
    assert np.abs(frequencies(seed=7, **options) - want).max() < 4 * np.sqrt(0.25 / DRAWS)


def test_a_seed_repeats_and_its_absence_does_not():
    assert np.array_equal(frequencies(seed=3), frequencies(seed=3))
    assert not np.array_equal(frequencies(seed=3), frequencies(seed=4))
    assert not np.array_equal(frequencies(), frequencies())


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"top_k": -1},
        {"min_p": 2},
    ],
)
def test_values_out_of_range_are_refused_by_name(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**bad)
