"""Programs take turns, and what comes out is what they took."""

import itertools
import sys
import time
from dataclasses import dataclass

import pytest

from gptoss_mlx.bench import harness
from gptoss_mlx.bench.harness import Spread, Timing, Turn, actions_in_turns, take_turns, take_turns_apart
from gptoss_mlx.bench.peer import Peer, Usage
from tests.bench.test_peer import WORKER


@dataclass
class Still:
    """A program that uses nothing."""

    name: str

    def usage(self):
        return Usage(0.0, 0)


@dataclass
class Spinning(Still):
    """A program that keeps a core busy all the time."""

    def usage(self):
        return Usage(time.perf_counter(), 0)


@dataclass
class Working(Still):
    """A program that has used a second of CPU time for each of its turns."""

    names: list[str]

    def usage(self):
        return Usage(float(self.names.count(self.name)), 0)


def test_the_ratio_of_two_sleeping_programs_comes_out():
    with (
        Peer("slow", [sys.executable, str(WORKER), "0.06"]) as slow,
        Peer("fast", [sys.executable, str(WORKER), "0.02"]) as fast,
    ):
        timing = take_turns([slow, fast], lambda peer: peer.decode([1]), turns=7, least=7, limit=0, pause=0)
    assert timing.seconds("slow").count == 7
    assert timing.seconds("slow").median == pytest.approx(0.06, rel=0.3)
    ratio = timing.ratio("slow", to="fast")
    assert ratio.median == pytest.approx(3, rel=0.4)
    assert ratio.low <= ratio.median <= ratio.high
    assert timing.ratio("fast", to="slow").median == pytest.approx(1 / 3, rel=0.5)


def test_what_a_program_computes_while_another_works_is_noted():
    """What it computes in its own turn, and in the pause after it, is not."""
    names = []

    def step(peer):
        names.append(peer.name)
        time.sleep(0.03)
        return 0.03

    timing = take_turns([Spinning("spinning"), Still("still")], step, turns=4, least=4, limit=0, pause=0.01)
    assert timing.idle["spinning"] == pytest.approx(1.0, abs=0.1)
    assert timing.idle["still"] == 0.0
    work = take_turns([Working("working", names), Still("still")], step, turns=4, least=4, limit=0, pause=0.01)
    assert work.idle["working"] == 0.0


def test_between_two_turns_in_a_row_nothing_is_noted():
    """The last of the first turn begins the second. What it computes in the instant between says nothing."""
    timing = take_turns([Spinning("first"), Spinning("last")], lambda peer: 1.0, turns=1, least=1, limit=0, pause=0.05)
    assert set(timing.idle) == {"first"}
    assert timing.idle["first"] == pytest.approx(1.0, abs=0.2)


def test_every_program_works_once_a_turn_and_none_is_always_first():
    order = []

    def step(peer):
        order.append(peer.name)
        return 1.0

    timing = take_turns([Still("a"), Still("b")], step, turns=3, warm_up=1, pause=0)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(timing.turns) == 3


def test_what_comes_before_each_step_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PRESSURE", tmp_path / "cpu")
    waited = 0
    calls = []

    def wait(seconds):
        nonlocal waited
        waited += seconds
        harness.PRESSURE.write_text(f"some avg10=0.00 total={waited * 1e6:.0f}\n")

    def ready(peer):
        calls.append("ready")
        wait(30)

    def step(peer):
        calls.append("step")
        wait(1)
        return 4.0

    timing = take_turns([Still("a")], step, turns=1, warm_up=1, pause=0, limit=0.0, ready=ready)
    assert calls == ["ready", "step"] * 2
    assert [turn.seconds["a"] for turn in timing.turns] == [4.0]
    assert timing.waiting == 0.25


def test_a_busy_machine_is_measured_at_least_as_often_as_asked(waits):
    step = waits(0.5, 0.6, 0.7, 0.4)
    timing = take_turns([Still("a")], step, turns=9, least=3, warm_up=0, limit=0.0, pause=0)
    assert [turn.seconds["a"] for turn in timing.turns] == [1.0, 2.0, 3.0]


def test_actions_of_one_process_take_turns_after_one_that_does_not_count():
    order = []
    timing = actions_in_turns(
        {"a": lambda: time.sleep(0.02), "b": lambda: time.sleep(0.06)}, turns=3, ready=lambda: order.append("ready")
    )
    assert len(order) == 8
    assert len(timing.turns) == 3
    assert timing.ratio("b", to="a").median == pytest.approx(3, rel=0.5)
    assert list(timing.turns[0].seconds) == ["b", "a"]


def test_programs_that_are_never_in_memory_together_take_turns_too():
    order = []

    def run(program):
        order.append(program.name)
        return {"load": float(len(order)), "first": 1.0}

    timings = take_turns_apart([Still("a"), Still("b")], run, turns=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [*map(dict, (turn.seconds for turn in timings["load"].turns))] == [
        {"a": 1.0, "b": 2.0},
        {"b": 3.0, "a": 4.0},
        {"a": 5.0, "b": 6.0},
    ]
    assert timings["first"].seconds("b") == Spread(1.0, 1.0, 1.0, 3)


def test_turns_before_the_programs_are_warm_are_not_timed():
    seconds = iter([9.0, 8.0, 1.0, 1.0])
    timing = take_turns([Still("a")], lambda peer: next(seconds), turns=2, warm_up=2, pause=0)
    assert [turn.seconds["a"] for turn in timing.turns] == [1.0, 1.0]


@pytest.fixture
def waits(tmp_path, monkeypatch):
    """A function that makes a step: each takes a second more than the one before, in which threads wait as told."""
    pressure = tmp_path / "cpu"
    monkeypatch.setattr(harness, "PRESSURE", pressure)

    def write(total):
        pressure.write_text(
            f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total * 1e6:.0f}\nfull avg10=0.00 total=0\n"
        )

    def step_of(*shares):
        write(5.0)
        ends = itertools.accumulate((number * share for number, share in enumerate(shares, 1)), initial=5.0)
        next(ends)
        numbers = itertools.count(1)

        def step(peer):
            write(next(ends))
            return float(next(numbers))

        return step

    return step_of


def test_turns_are_repeated_until_enough_were_calm(waits):
    step = waits(0.5, 0.0, 0.9, 0.3, 0.05, 0.2, 0.09)
    timing = take_turns([Still("a")], step, turns=3, warm_up=0, pause=0)
    assert [turn.seconds["a"] for turn in timing.turns] == [2.0, 5.0, 7.0]
    assert timing.waiting == pytest.approx(0.05, abs=1e-3)


def test_the_calmest_turns_count_when_the_limit_has_passed(waits):
    step = waits(0.5, 0.6)
    timing = take_turns([Still("a")], step, turns=3, warm_up=1, limit=0.0, pause=0)
    assert [turn.seconds["a"] for turn in timing.turns] == [2.0]
    assert timing.waiting == pytest.approx(0.6, abs=1e-3)


def test_a_turn_is_calm_only_if_all_its_programs_were(waits):
    step = waits(0.0, 0.5, 0.0, 0.0)
    timing = take_turns([Still("a"), Still("b")], step, turns=1, warm_up=0, pause=0)
    assert [dict(turn.seconds) for turn in timing.turns] == [{"b": 3.0, "a": 4.0}]


def test_without_a_count_of_waiting_threads_every_turn_is_calm(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "PRESSURE", tmp_path / "absent")
    numbers = itertools.count(1)
    timing = take_turns([Still("a")], lambda peer: float(next(numbers)), turns=2, warm_up=0, pause=0)
    assert [turn.seconds["a"] for turn in timing.turns] == [1.0, 2.0]
    assert timing.waiting is None


def test_a_spread_is_the_median_and_the_quartiles():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)


def test_a_rate_is_taken_turn_by_turn():
    timing = Timing([Turn({"a": 1.0}), Turn({"a": 2.0}), Turn({"a": 4.0})], {})
    assert timing.rate("a", 128) == Spread(64.0, 48.0, 96.0, 3)


def test_ratios_are_taken_turn_by_turn():
    """Load that doubles both programs' seconds in one turn leaves no trace in the ratio."""
    timing = Timing([Turn({"a": 1.0, "b": 3.0}), Turn({"a": 2.0, "b": 6.0}), Turn({"a": 8.0, "b": 24.0})], {})
    assert timing.ratio("b", to="a") == Spread(3.0, 3.0, 3.0, 3)
