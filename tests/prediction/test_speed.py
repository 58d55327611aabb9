"""The speed model is what it is fitted to, and what it does not know is held against it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.prediction.published_speeds import (
    BANDWIDTH,
    FIT_ROWS,
    GB,
    MLX_VLM,
    OMLX_PROMPT,
    OMLX_PROMPTS,
    OMLX_RATES,
    PR_1588,
    ROWS,
)
from gptoss_mlx.prediction.speed import (
    FITTED,
    PEER_DISPATCHES,
    READBACK,
    WORST_ERROR,
    Paging,
    Parameters,
    class_of,
    fit,
    hit_rate,
    known_chip,
    left_out,
    own_paging,
    predict,
    predict_paged,
    repeats,
    spread,
    token_bytes,
)
from tests.reports import speeds

TWENTY = PUBLISHED["20b"]


def test_the_committed_parameters_are_those_of_a_fresh_fit():
    fresh = fit()
    for name, value in vars(FITTED).items():
        assert getattr(fresh, name) == pytest.approx(value, rel=2e-3), name


def test_the_fit_finds_the_numbers_that_made_the_rates():
    """Rows whose rates the model itself made give its numbers back."""
    truth = Parameters(share=0.6, base=9e-6, max=5e-6, ultra=8e-6, m5=0.5)
    made = []
    for row in FIT_ROWS:
        options = {"context": row.context, "dispatches": PEER_DISPATCHES, "parameters": truth}
        made.append(replace(row, rate=predict(PUBLISHED[row.model], row.dense, row.chip, **options).rate))
    found = fit(made)
    for name, value in vars(truth).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name


def test_a_chip_left_out_is_mispredicted_by_no_more_than_is_said():
    found = left_out()
    assert {row.chip for row, _ in found} == {"M1 Pro", "M2 Max", "M4 Max", "M1 Ultra", "M3 Ultra", "M4 Pro"}
    factors = [max(rate / row.rate, row.rate / rate) for row, rate in found]
    assert max(factors) == pytest.approx(WORST_ERROR, rel=0.01)
    assert math.prod(factors) ** (1 / len(factors)) < 1.3


def test_a_published_speed_far_from_the_others_moves_no_prediction_far():
    """As of a program that is half as fast as the others on its chip."""
    slow = [replace(FIT_ROWS[0], chip="M3 Ultra", model="20b", dense="q8", context=0, rate=40.0)]
    moved = fit([*FIT_ROWS, *slow])
    for chip in ("M2 Max", "M3 Ultra", "M4 Pro"):
        was, now = (predict(TWENTY, "q8", chip, dispatches=39, parameters=at).rate for at in (FITTED, moved))
        assert now == pytest.approx(was, rel=0.05), chip


@pytest.mark.parametrize(
    ("model", "dense", "gigabytes"), [("20b", "q8", 2.57), ("120b", "q8", 3.56), ("20b", "q4", 1.96)]
)
def test_a_token_reads_the_published_bytes(model, dense, gigabytes):
    assert token_bytes(PUBLISHED[model], dense) / GB == pytest.approx(gigabytes, rel=0.01)


def test_keys_and_values_are_read_too():
    read = token_bytes(TWENTY, "q8", 10_000) - token_bytes(TWENTY, "q8", 0)
    assert read == pytest.approx(10_000 * 24_576, rel=0.02)


def test_mlx_lm_held_out_lies_in_a_range_of_less_than_two():
    low, high = speeds.pr_1588()
    assert high / low < 2
    for rate in PR_1588:
        assert low < rate < high


def test_mlx_vlm_held_out_lies_in_a_range_of_less_than_two():
    low, high = speeds.mlx_vlm()
    assert high / low < 2
    assert low < MLX_VLM[1] < high


@pytest.mark.parametrize("resident", [0.5, 0.25, 0.125])
def test_omlx_held_out_lies_in_a_range_of_less_than_two(resident):
    low, high = speeds.omlx(resident)
    assert high / low < 2
    assert low < OMLX_RATES[resident] / OMLX_RATES[1.0] < high


def test_how_long_omlx_takes_for_an_expert_follows_from_its_prompts_alone():
    """3.345 MB of an expert, by the memory that its table gives half of them less than all: 13 to 20 GB/s. The fit's
    middle gives each prompt's time again."""
    low, high = speeds.omlx_fetch()
    assert 13 * GB < 3.345e6 / high < 3.345e6 / low < 20 * GB
    middle = (low + high) / 2
    parts = [(seconds - OMLX_PROMPT - middle * fetches) / count for fetches, seconds, count in OMLX_PROMPTS]
    assert all(count > 0 for count in parts)
    part = np.median(parts)
    for fetches, seconds, count in OMLX_PROMPTS:
        assert OMLX_PROMPT + middle * fetches + part * count == pytest.approx(seconds, rel=0.1)


def test_what_is_held_out_is_in_no_row():
    assert not {*PR_1588, *OMLX_RATES.values()} & {row.rate for row in ROWS}
    assert not any("1588" in row.source or "oMLX" in row.engine for row in ROWS)


def test_terms_are_the_sizes_over_the_speeds():
    found = predict(TWENTY, "q8", "M4", paging=Paging(hit=0.75, disk=2 * GB, readback=1e-3, readbacks=3, cached=0.5))
    missed = 0.25 * 4 * 24 * 13.23e6
    assert found.terms["disk"] == pytest.approx(missed / 2 / (2 * GB), rel=0.01)
    assert found.terms["page cache"] == pytest.approx(missed / 2 / (10.6 * GB), rel=0.01)
    assert found.terms["readbacks"] == 3e-3
    assert found.seconds == pytest.approx(1 / found.rate)
    assert predict(TWENTY, "q8", "M4").terms["memory"] == pytest.approx(2.57e9 / (FITTED.share * 120e9), rel=0.01)


def test_where_all_is_resident_paging_costs_one_readback():
    own = own_paging(TWENTY, 32, GB, 1e-3)["ahead"]
    assert (own.hit, own.readbacks, own.repeated, own.vain) == (1.0, 1.0, 0.0, 0.0)
    assert predict_paged(TWENTY, "q8", "M4", 32, GB).terms["readbacks"] == READBACK[1]


@pytest.mark.parametrize("kept", [1.0, 0.7])
@pytest.mark.parametrize("hit", [0.95, 0.6])
def test_repeats_are_what_steps_that_are_drawn_at_random_cost(hit, kept):
    """A step is played layer by layer: what is there, what is missed, and what changes when it is repeated."""
    config = replace(TWENTY, num_hidden_layers=6, layer_types=TWENTY.layer_types[:6])
    random = np.random.default_rng(0)
    trials = 4_000
    count = layers = vain = 0
    for _ in range(trials):
        there = random.random((6, 4)) < hit
        first = 0
        while first < 6 and not there[first:].all():
            missed = first + int(np.flatnonzero(~there[first:].all(axis=1))[0])
            count += 1
            layers += 6 - missed
            wrong = random.random(there[missed + 1 :].shape) >= kept
            vain += int((wrong & ~there[missed + 1 :]).sum())
            there[missed:] = True
            there[missed + 1 :][wrong] = random.random(int(wrong.sum())) < hit
            first = missed + 1
    found = repeats(config, hit, kept)
    assert found.count == pytest.approx(count / trials, rel=0.07)
    assert found.layers == pytest.approx(layers / trials, rel=0.07)
    assert found.vain == pytest.approx(vain / trials, rel=0.1, abs=1e-9)


def test_the_faster_way_is_predicted():
    """Few misses are best met by a repeat, and many by a wait in every layer."""
    few, many = (predict_paged(TWENTY, "q8", "M4 Max", slots, 6 * GB) for slots in (32, 12))
    assert few.terms["readbacks"] < 2 * READBACK[1]
    assert many.terms["readbacks"] == 24 * READBACK[1]
    assert many.terms["repeats"] == 0


def test_hits_follow_omlxs_curve():
    assert hit_rate(0.25) == 0.67
    assert hit_rate(0.375) == pytest.approx(0.78)


def test_independent_unknowns_widen_a_range_less_than_their_worst_cases_together():
    low, high = spread(lambda a, b: float(a) * float(b), a=(1.0, 4.0), b=(1.0, 4.0))
    assert (low, high) == pytest.approx((4 / 4**0.5 / 2 ** (2 * 2**0.5 / 2 - 1), 4 * 2 ** (2**0.5)), rel=1e-6)
    assert spread(lambda a: float(a), a=(2.0, 8.0)) == pytest.approx((2.0, 8.0))


@pytest.mark.parametrize(
    ("said", "chip", "kind"),
    [("Apple M4 Pro", "M4 Pro", "base"), ("Apple M2 Ultra", "M2 Ultra", "Ultra"), ("Apple M5", "M5", "base")],
)
def test_a_chip_is_known_by_what_macos_calls_it(said, chip, kind):
    assert known_chip(said) == chip
    assert class_of(chip) == kind


def test_a_chip_that_is_not_known_is_not_guessed():
    assert known_chip("Apple M9 Max") is None
    assert known_chip("Intel(R) Xeon(R) Processor") is None
    assert known_chip(None) is None
    assert set(BANDWIDTH) >= {row.chip for row in ROWS}


def test_16_gb_miss_the_goal_and_the_report_says_by_which_terms():
    slots, predictions = speeds.sixteen()
    more, _ = speeds.sixteen(context=8192)
    whole = predictions["all resident"]
    ahead, waiting = (predictions[f"{slots} of 32 slots, {name}"] for name in ("ahead", "waiting"))
    assert 16 <= slots < more < 32
    assert ahead.rate < waiting.rate < 0.8 * whole.rate
    left = whole.seconds / 4
    assert min(waiting.terms["disk"], waiting.terms["readbacks"], ahead.terms["disk"], ahead.terms["repeats"]) > left
    assert speeds.needed() > 0.99
    assert 11e9 < speeds.smallest(8192) < 13e9
