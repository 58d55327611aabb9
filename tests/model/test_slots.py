"""Slots are filled ahead as far as choices behind a missed layer prove right."""

import numpy as np
import pytest

from gptoss_mlx.model.slots import Place, SlotTable, Tally

LAYERS, EXPERTS, SLOTS = 5, 64, 4


def walked(right: int, steps: int = 300) -> tuple[SlotTable, Tally, list[Place]]:
    """Let a table meet steps in which every layer chooses anew. Behind a missed layer the next ``right`` layers choose
    rightly, and others something else. Return what was brought in the last step, too."""
    table = SlotTable(LAYERS, EXPERTS, SLOTS)
    random = np.random.default_rng(0)
    tally = Tally()
    brought: list[Place] = []
    for _ in range(steps):
        brought.clear()
        final = np.array([random.choice(EXPERTS // 2, 2, replace=False) for _ in range(LAYERS)])[:, None]
        first = 0
        while first < LAYERS:
            seen = final[first:].copy()
            absent = [n for n in range(first, LAYERS) if not table.present(n)[final[n, 0]].all()]
            if absent:
                seen[max(absent[0] - first + 1 + right, 0) :] += EXPERTS // 2
            missed = table.first_miss(first, seen, tally, brought.extend)
            assert missed == (absent[0] if absent else None)
            if missed is None:
                break
            first = missed + 1
    return table, tally, brought


@pytest.mark.parametrize("right", range(LAYERS))
def test_it_reads_as_far_ahead_as_choices_prove_right(right):
    table, _, brought = walked(right)
    assert table.reach == (right if right < LAYERS - 1 else LAYERS)
    assert all(place.id < EXPERTS // 2 for place in brought), "nothing was read in vain in the end"


def test_reading_ahead_saves_repeats_and_reads_nothing_more():
    _, far, _ = walked(LAYERS)
    _, near, _ = walked(0)
    assert far.repeats < near.repeats / 3
    assert far.wanted == near.wanted == 300 * LAYERS * 2
    assert near.misses < 1.2 * far.misses


def test_what_proved_wrong_may_prove_right_again():
    table, tally, _ = walked(0)
    assert table.reach == 0
    for number in range(60):
        whole = np.full((LAYERS, 1, 2), [[2 * number % 32, 2 * number % 32 + 1]])
        first = 0
        while (missed := table.first_miss(first, whole[first:], tally, lambda places: None)) is not None:
            first = missed + 1
    assert table.reach == LAYERS


def test_a_step_that_was_given_up_teaches_nothing():
    table = SlotTable(LAYERS, EXPERTS, SLOTS)
    for _ in range(100):
        table.first_miss(0, np.random.default_rng(1).integers(0, 9, (LAYERS, 1, 2)), Tally(), lambda places: None)
        table.first_miss(0, np.full((LAYERS, 1, 2), [[30, 31]]), Tally(), lambda places: None)
    assert table.reach == LAYERS
