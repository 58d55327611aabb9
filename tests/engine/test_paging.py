"""Replies of a model whose experts are paged are those of the model in memory, for a thousand steps and after faults.

``make paging-stress`` runs ten times as many and more ways.
"""

import os
import shutil

import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.errors import EngineError
from metal_kernels import launch
from tests.support.models import always_ahead
from tests.support.questions import GREEDY, is_right, prompt, replies


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    convert(checkpoint(), folder)
    return gptoss_mlx.load(folder)


@pytest.mark.parametrize(("slots", "rows"), [(4, 1), (5, 1), (5, 4)])
def test_hundreds_of_steps_with_evictions_and_repeats_answer_right(tiny, slots, rows):
    own = gptoss_mlx.load(tiny.folder.path, slots=slots)
    always_ahead(own, True)
    got = replies(own, range(4), rows)
    assert got == replies(tiny, range(4), rows)
    assert all(is_right(tiny, number, reply) for number, reply in got.items())
    decode = own.model.weights.paged.decode
    assert sum(map(len, got.values())) > 250
    assert decode.evictions > 100
    assert 0 < decode.misses < decode.wanted
    assert (decode.repeats > 100) == (rows == 1), "four rows go layer by layer"


def test_so_do_emulated_shaders(tiny, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    whole = gptoss_mlx.load(tiny.folder.path, dtype="float32")
    own = gptoss_mlx.load(tiny.folder.path, dtype="float32", slots=5)
    assert replies(own, [0], most=12) == replies(whole, [0], most=12)
    assert own.model.weights.paged.decode.repeats > 0


def test_of_rows_whose_experts_cannot_be_read_each_fails_or_all_stay(tiny, tmp_path):
    folder = shutil.copytree(tiny.folder.path, tmp_path / "model")
    own = gptoss_mlx.load(folder, slots=4)
    batch = Batch(own.model)
    for number in range(2):
        batch.add(Row(number, prompt(own, number), own.context(), 60, GREEDY, own.stop_ids))
    said = {0: [], 1: []}
    for _ in range(5):
        for one in batch.step():
            said[one.id].append(one.token)
    files = {file: file.read_bytes() for file in folder.glob("model-layer-*")}
    for file in files:
        os.truncate(file, 20_000)
    outcomes = []
    with pytest.raises(EngineError, match="truncated while it was read"):
        outcomes.extend(one for _ in range(60) for one in batch.step())
    for one in outcomes:
        assert not isinstance(one, Failed)
        said[one.id].append(one.token)
    for file, data in files.items():
        file.write_bytes(data)
    while batch.busy:
        for one in batch.step():
            said[one.id].append(one.token)
    assert said == replies(tiny, range(2), most=60)
