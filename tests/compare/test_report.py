"""A goal that is missed, a program that disturbs others, and a busy machine each make one line."""

import numpy as np
import pytest

from gptoss_mlx.bench.harness import Timing, Turn
from tests.compare.report import GOALS, LLAMA, MLX_FLOAT32, OURS_BF16, OURS_Q8, Group, missed, programs, times


def timing(own, other, factor, waiting=0.0, idle=0.0):
    return Timing([Turn({own: 2.0, other: 2.0 * factor}, waiting)] * 3, {own: 0.0, other: idle})


def groups(**changed):
    """Return figures that reach every goal just so, but for what is changed: a work's arguments of ``timing``."""
    found = {OURS_Q8: Group(OURS_Q8), OURS_BF16: Group(OURS_BF16)}
    for goal in GOALS:
        arguments = {"factor": goal.times} | changed.get(f"{goal.work} {goal.own}", {})
        found[goal.own].timings[goal.work] = timing(goal.own, goal.other, **arguments)
    for own, other in ((OURS_Q8, LLAMA), (OURS_BF16, MLX_FLOAT32)):
        found[own].logits = {own: np.ones(3, np.float32), other: np.ones(3, np.float32) * 1.5}
        found[own].memory = {own: 2_000_000_000, other: 3_000_000_000}
    return list(found.values())


def test_nothing_is_missed_where_every_goal_is_reached():
    assert missed(groups()) == []


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.work} {goal.other}")
def test_a_goal_that_is_missed_is_named(goal):
    (line,) = missed(groups(**{f"{goal.work} {goal.own}": {"factor": goal.times * 0.9}}))
    assert line.startswith(f"{goal.work}: {goal.other} takes {goal.times * 0.9:.2f}x of the time of {goal.own}")


def test_prefill_may_take_a_fifth_longer_than_llama_cpp_takes():
    assert {goal.work: goal.times for goal in GOALS if goal.other == LLAMA} == {
        "decode": 1.0,
        "decode 8 sequences": 1.0,
        "pp128": pytest.approx(1 / 1.2),
        "pp512": pytest.approx(1 / 1.2),
    }


def test_a_program_that_computes_while_others_are_measured_is_named():
    (line,) = missed(groups(**{f"pp512 {OURS_Q8}": {"factor": 1.0, "idle": 0.3}}))
    assert line == f"pp512: {LLAMA} kept 30% of a core busy while others were measured"


def test_figures_from_a_busy_machine_are_not_believed():
    (line,) = missed(groups(**{f"decode {OURS_BF16}": {"factor": 9.0, "waiting": 0.4}}))
    assert "some thread waited for a core in 40% of the time; measure again when nothing else runs" in line


def test_tables_have_a_line_for_each_program_and_work():
    found = groups()
    assert sum(times(group, "title").row_count for group in found) == 2 * len(GOALS)
    assert programs(found).row_count == 4


def test_a_work_of_a_single_turn_says_nothing_of_what_programs_computed_between_turns():
    found = groups()
    found[1].timings["pp128"] = Timing([Turn({OURS_BF16: 2.0, MLX_FLOAT32: 60.0}, 0.0)], {})
    assert programs(found).row_count == 4
    assert missed(found) == []
    found[1].timings = {"pp128": found[1].timings["pp128"]}
    assert [*programs(found).columns[3].cells][2:] == ["not measured"] * 2
