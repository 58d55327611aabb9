"""On the CPU every operation of a model that is loaded in float32 runs in the native library, and none in plain MLX."""

from collections import Counter

import pytest

from gptoss_mlx.engine.generate import generate
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch
from metal_kernels.cpu import library
from tests.support.checkpoints import SMALL
from tests.support.models import random_model

pytestmark = pytest.mark.skipif(launch.where() != "cpu", reason="the native library is not used here")


@pytest.mark.parametrize("dense", ["bf16", "q8"])
def test_every_operation_of_a_model_runs_in_the_library(dense, tmp_path, monkeypatch):
    runtime = random_model(tmp_path, SMALL, dense=dense)
    called = Counter()
    loaded = library.library()

    def counted(name, function):
        def call(*arguments):
            called[name] += 1
            return function(*arguments)

        return call

    for name, function in loaded.functions.items():
        monkeypatch.setitem(loaded.functions, name, counted(name, function))
    ids = list(generate(runtime.context(), list(range(40)), max_tokens=4, sampling=Sampling(temperature=0), stop=()))
    assert len(ids) == 4
    layers = SMALL["num_hidden_layers"]
    decoded = 3 * layers
    assert called == {
        **{"embed": 1 + 3, "rope_tables": 1 + 3, "norm_head": 1, "norm_head_argmax": 3},
        **dict.fromkeys(("norm_qkv_rope", "output_residual", "norm_router"), layers + decoded),
        **dict.fromkeys(("prefill_attention", "expert_mlp_grouped"), layers),
        **dict.fromkeys(("decode_attention", "expert_gate_up", "expert_down_residual"), decoded),
    }
