"""The replayer prints what ``prediction.replay`` finds, and predicts speeds only where the sizes are published ones."""

import re
import sys

import numpy as np
import pytest

from gptoss_mlx.bench import replay
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.model.experts import Look
from gptoss_mlx.prediction.expert_trace import About, TraceWriter, read_trace
from gptoss_mlx.prediction.replay import POLICIES, as_run, invented, played
from gptoss_mlx.prediction.speed import predict


@pytest.fixture
def said(monkeypatch, capsys):
    def call(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["replay", *map(str, arguments)])
        replay.main()
        return capsys.readouterr().out

    return call


@pytest.fixture
def trace(tmp_path):
    """A trace of choices that are invented, of a small model with all its experts in slots."""
    writer = TraceWriter(tmp_path / "trace", About("small", 3, 8, 2, 8, 1000))
    for step in TAKEN:
        weights = np.full(step.chosen.shape, 0.5, np.float32)
        writer(Look("step", step.prompt, 0, None, step.chosen, weights))
    return tmp_path / "trace"


TAKEN = invented(3, 8, 2, 40, skew=0.5, stay=0.5, before=5)


def test_hit_rates_are_printed_by_slots_and_policy(said, trace):
    printed = said(trace, "--slots", 3, "--slots", 5)
    assert "small, 40 steps of decoding" in printed
    decode, _ = as_run(*read_trace(trace))
    ran = f"8 of 8 slots, decoding: {decode.wanted} experts chosen, {decode.misses} read, {decode.repeats} repeats"
    assert ran in " ".join(printed.split())
    for slots in (3, 5):
        line = next(line for line in printed.splitlines() if f" {slots} of 8 slots" in line)
        want = [f"{played(TAKEN, 8, slots, policy).tally.hit:.3f}" for policy in POLICIES]
        assert re.findall(r"[01]\.\d{3}", line) == want
    assert "tokens/s" not in printed, "nothing is known of so small a model's speed"


def test_speeds_follow_disks_and_memory_and_never_reach_all_resident(said):
    printed = said(
        *("--invent", "20b", "--tokens", 20, "--memory", "6GB", "--memory", "11GB"),
        *("--disk", 2, "--disk", 6, "--chip", "M4"),
    )
    rows = [line for line in printed.splitlines() if "LRU ahead" in line and "slots" in line]
    speeds = np.array([[float(number) for number in re.findall(r"│ (\d+\.\d) ", line)] for line in rows])
    assert speeds.shape == (2, 2)
    assert (np.diff(speeds, axis=0) > 0).all()
    assert (np.diff(speeds, axis=1) > 0).all()
    assert speeds.max() < predict(PUBLISHED["20b"], "q8", "M4").rate
    assert "Nobody has measured them" in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--slots", 9), "slots is 9; it must be from 2 to 8"),
        (("--slots", 1), "slots is 1"),
        (("--memory", "6GB"), "give --slots"),
    ],
)
def test_what_cannot_be_played_is_said_in_one_line(said, trace, arguments, problem):
    with pytest.raises(SystemExit, match=problem) as refused:
        said(trace, *arguments)
    assert "\n" not in str(refused.value)


def test_a_trace_without_decoding_is_refused(said, tmp_path):
    TraceWriter(tmp_path / "empty", About("small", 3, 8, 2, 8, 1000))
    with pytest.raises(SystemExit, match="no step of decoding"):
        said(tmp_path / "empty")
