"""Draws follow the distribution the options describe."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.sampling import points, sample
from gptoss_mlx.errors import UsageError
from gptoss_mlx.sampling import Sampling

P = np.array([0.4, 0.05, 0.3, 0.15, 0.1])
DRAWS = 5000


def frequencies(**options):
    sampling = Sampling(**options)
    logits = mx.broadcast_to(mx.array(np.log(P), mx.float32), (DRAWS, len(P)))
    drawn_at = points(sampling)
    drawn = np.array(sample(logits, sampling, mx.concatenate([next(drawn_at) for _ in range(DRAWS)])))
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
        {"temperature": "a"},
        {"temperature": None},
        {"temperature": True},
        {"temperature": 10**5000},
        {"temperature": [1.0]},
        {"top_p": 1j},
        {"top_p": False},
        {"top_k": 2.5},
        {"top_k": 2.0},
        {"top_k": True},
        {"top_k": "5"},
        {"top_k": None},
        {"top_k": -(10**5000)},
        {"min_p": None},
        {"seed": 1.5},
        {"seed": "1"},
        {"seed": float("nan")},
        {"seed": True},
    ],
    ids=lambda bad: "-".join(bad),
)
def test_values_of_no_use_are_refused_by_name_in_one_line(bad):
    with pytest.raises(UsageError, match=f"^{next(iter(bad))} is [^\n]*; it must be [^\n]*$"):
        Sampling(**bad)


def test_numbers_of_numpy_are_those_of_python():
    odd = Sampling(
        np.float32(0.5), np.float64(0.25), np.int64(3), np.float16(0.5), np.uint64(7), np.float32(1), np.int8(2)
    )
    odd = replace(odd, logit_bias=((np.int64(5), np.float32(1.5)),))
    assert odd == Sampling(0.5, 0.25, 3, 0.5, 7, 1.0, 2.0, ((5, 1.5),))
    *values, pairs = vars(odd).values()
    assert [type(value) for value in values] == [float, float, int, float, int, float, float]
    assert [type(value) for value in pairs[0]] == [int, float]


def test_more_ranks_than_ids_are_all_and_a_seed_may_be_any_whole_number():
    assert np.array_equal(frequencies(seed=7, top_k=10**30), frequencies(seed=7, top_k=5))
    assert frequencies(seed=-(10**30)).sum() == 1


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, [198, 198, 198, 236, 515, 515, 198, 198]),
        ({"temperature": 0.7}, [198, 198, 198, 198, 386, 515, 198, 198]),
        ({"top_k": 20}, [198, 198, 198, 515, 386, 454, 198, 198]),
        ({"top_p": 0.8}, [198, 198, 198, 198, 250, 386, 198, 198]),
        ({"min_p": 0.02}, [198, 198, 198, 198, 250, 806, 198, 198]),
        ({"top_k": 50, "top_p": 0.9, "temperature": 1.3}, [198, 198, 515, 236, 444, 557, 198, 198]),
    ],
)
def test_a_seed_draws_what_it_always_has(options, want):
    """What MLX 0.32.4's own categorical drew by these seeds, of 1,000 ids."""
    logits = np.random.default_rng(5).permutation(-1.5 * np.log(np.arange(1, 1001))).astype(np.float32)
    samplings = [Sampling(seed=seed, **options) for seed in range(len(want))]
    assert [sample(mx.array(logits)[None], one, next(points(one))).item() for one in samplings] == want
