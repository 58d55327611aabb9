"""Replays: the emulator's own outputs pass, and what a GPU could do wrong is told."""

import json

import numpy as np
import pytest

from tests.gpu import dry, recording, replay
from tests.gpu.plan import Plan
from tests.metal_kernels.shaders import decode_attention, dense, experts


@pytest.fixture(scope="module")
def recorded():
    some = [
        ("norm_router", experts.dispatch("norm_router", *experts.CASES[1]), None),
        ("a grid that is no multiple", dense.dispatch("norm_head", *dense.CASES[0]), None),
        ("decode_attention", decode_attention.dispatch(decode_attention.CASES[0][0]), None),
    ]
    plan = Plan()
    kept: dict[str, np.ndarray] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "every", lambda: iter(some))
        records = json.loads(json.dumps(list(recording.recorded(plan, kept))))
    return plan, records, kept


def replayed(recorded, gpu=None):
    plan, records, kept = recorded
    return replay.replayed(gpu or dry.DryGpu(plan), dry.NOWHERE, records, kept)


def test_the_emulator_agrees_with_itself(recorded):
    lines = replayed(recorded)
    assert [line["shader"] for line in lines] == ["norm_router", "norm_head", "decode_attention"]
    assert all(line["right"] and line["same_bits"] for line in lines)
    assert all(set(line["differences"].values()) == {0.0} for line in lines)


class Careless(dry.DryGpu):
    """Does something wrong after each launch."""

    def __init__(self, plan, wrong):
        super().__init__(plan)
        self.wrong = wrong

    def launch(self, launch):
        super().launch(launch)
        self.wrong(self._from(launch.arguments[-1]), len(self.launched))


def test_an_output_that_is_not_written_is_wrong(recorded):
    lines = replayed(recorded, Careless(recorded[0], lambda output, _: output[:64].fill(replay.POISON)))
    assert not any(line["right"] for line in lines)
    assert all(line["same_bits"] for line in lines)


def test_other_bits_at_the_second_time_are_told(recorded):
    def wrong(output, turn):
        output[0] ^= turn % 2

    assert not any(line["same_bits"] for line in replayed(recorded, Careless(recorded[0], wrong)))


def test_every_shader_is_among_what_is_recorded(monkeypatch):
    monkeypatch.setattr(recording, "run", lambda made, **_: ((None, None), None))
    monkeypatch.setattr(recording.dispatches, "decode_attention_combine", lambda *_: "joined")
    found = [made for _, made, _ in recording.every()]
    shaders = {made.shader for made in found if made != "joined"}
    assert "joined" in found
    assert shaders == {path.stem for path in recording.dispatches.FOLDER.glob("*.metal")} - {"decode_attention_combine"}
