"""mlx-lm's worker computes what mlx-lm computes, in whichever parts it reads a prompt."""

import numpy as np
import pytest

from convert.export import export
from tests.support.checkpoints import SMALL
from tests.support.measure import relative_l2
from tests.support.models import random_model

pytest.importorskip("mlx_lm", reason="extra compare is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    from gptoss_mlx.bench.mlx_lm_worker import MlxLm

    folder = tmp_path_factory.mktemp("mlx-lm")
    export(random_model(folder / "model", SMALL).folder, folder / "checkpoint")
    return MlxLm(str(folder / "checkpoint"), {"dtype": "float32"})


def test_a_prompt_in_parts_and_ids_one_by_one_have_the_logits_of_a_plain_call(program, monkeypatch):
    import mlx.core as mx

    ids = np.random.default_rng(0).integers(0, SMALL["vocab_size"], (2, 9)).tolist()
    want = np.array(program._model(mx.array(ids))[:, 6:])
    monkeypatch.setattr("gptoss_mlx.bench.mlx_lm_worker.PART", 3)
    assert relative_l2(np.array(program.prefill([row[:7] for row in ids])), want[:, 0]) < 1e-5
    for at in (1, 2):
        assert relative_l2(np.array(program.decode([row[6 + at] for row in ids])), want[:, at]) < 1e-5


def test_generation_goes_on_by_as_many_steps(program):
    program.prefill([[1, 2, 3], [4, 5, 6]])
    program.generate(5)
    assert {cache.offset for cache in program._cache} == {8}
