"""Draws among the likeliest agree with a definition in float64 that sorts all ids, in plain MLX and on the CPU
backend."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import cpu_draws, draws

V = 2000
FILTERS = [
    {"ranks": V, "share": 0.9, "least": 0.0},
    {"ranks": V, "share": 1 - 1e-6, "least": 0.0},
    {"ranks": V, "share": 1e-9, "least": 0.0},
    {"ranks": V, "share": 1.0, "least": 0.05},
    {"ranks": V, "share": 1.0, "least": 1.0},
    {"ranks": V, "share": 1.0, "least": 0.0},
    {"ranks": 40, "share": 1.0, "least": 0.0},
    {"ranks": 1, "share": 1.0, "least": 0.0},
    {"ranks": 300, "share": 0.95, "least": 0.02},
    {"ranks": 300, "share": 0.5, "least": 0.3},
]


def logits(kind):
    rng = np.random.default_rng(3)
    z = {
        "spread": rng.standard_normal(V) * 2,
        "tied": np.round(rng.standard_normal(V)),
        "flat": np.zeros(V),
        "steep": rng.permutation(-2.0 * np.log(np.arange(1, V + 1))),
        "some impossible": np.where(rng.random(V) < 0.5, -np.inf, rng.standard_normal(V)),
    }[kind].astype(np.float32)
    return z - z.max()


def defined(z, ranks, share, least):
    """Sort all ids. Return ids and probabilities of those that pass."""
    order = np.argsort(-z, kind="stable")[:ranks]
    p = np.exp(z[order].astype(np.float64))
    before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
    fine = (p >= least) & ((before < share * p.sum()) | (share == 1))
    return order[fine], p[fine] / p[fine].sum()


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["spread", "tied", "flat", "steep", "some impossible"])
def test_both_draw_from_the_sorted_definition(kind, filters):
    z = logits(kind)
    ids, p = defined(z, **filters)
    got, likely = cpu_draws.likeliest(z, **filters)
    assert got.tolist() == ids.tolist()
    assert np.allclose(likely / likely.sum(), p, rtol=1e-12)
    # Points are in the middle of each id's part, so that rounding moves none of them to another id.
    chosen = np.flatnonzero(p > 1e-5)[:: max(1, len(ids) // 50)]
    points = mx.array((np.cumsum(p) - p / 2)[chosen].astype(np.float32))
    rows = mx.broadcast_to(mx.array(z), (len(chosen), V))
    for body in (draws, cpu_draws):
        assert body.draw_among_likeliest(rows, points, **filters).tolist() == ids[chosen].tolist()


@pytest.mark.parametrize("body", [draws, cpu_draws])
@pytest.mark.parametrize(("share", "last"), [(0.95, 191033), (0.5, 100543), (0.999999, 201087)])
def test_of_a_whole_vocabulary_as_many_pass_as_exact_sums_say(body, share, last):
    """Of equal ids 201,088 x ``share``, rounded up, pass. The point just below 1 draws the last of them."""
    z = mx.zeros((1, 201088))
    assert body.draw_among_likeliest(z, mx.array([1 - 2.0**-24]), 201088, share, 0.0).item() == last


def test_an_unfiltered_draw_reaches_every_id_by_exact_sums():
    points = np.arange(0.5, 201088, 1999) / 201088
    z = mx.broadcast_to(mx.zeros(201088), (len(points), 201088))
    assert draws.draw(z, mx.array(points.astype(np.float32))).tolist() == [int(point * 201088) for point in points]
    z = logits("spread")
    p = np.exp(z.astype(np.float64))
    p /= p.sum()
    chosen = np.flatnonzero(p > 1e-5)
    middle = mx.array((np.cumsum(p) - p / 2)[chosen].astype(np.float32))
    assert draws.draw(mx.broadcast_to(mx.array(z), (len(chosen), V)), middle).tolist() == chosen.tolist()


@pytest.mark.parametrize("point", [0.0, 1 - 2.0**-24])
def test_an_id_that_is_impossible_is_never_drawn(point):
    z = mx.array([[-np.inf, 0.0, -np.inf, -1.0, -np.inf]])
    points = mx.array([point])
    want = 1 if point == 0 else 3
    assert draws.draw(z, points).item() == want
    for body in (draws, cpu_draws):
        assert body.draw_among_likeliest(z, points, 5, 1.0, 0.0).item() == want


def test_whatever_logits_are_the_id_is_one_of_the_vocabulary():
    for value in (np.nan, -np.inf):
        z = mx.array([[value] * 8])
        assert draws.draw(z, mx.array([0.7])).item() < 8
        for body in (draws, cpu_draws):
            for filters in ({"ranks": 8, "share": 0.9, "least": 0.1}, {"ranks": 3, "share": 1.0, "least": 0.0}):
                assert body.draw_among_likeliest(z, mx.array([0.7]), **filters).item() < 8
