"""YaRN, as transformers computes it for every rotary parameter that a config may have."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.rope import attention_scale, inverse_frequencies
from tests.oracle.cases import ROPE_CASES
from tests.support.checkpoints import SMALL, hf_config

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "goldens" / "rope.json").read_text())


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 1.0), (8, 5.081327e-2), (9, 3.170570e-2), (17, 1.293187e-4), (18, 3.830881e-5), (31, 3.023511e-7)],
)
def test_published_frequencies(index, value):
    """The values are the reference implementation's. Bounds rounded to 8 and 18 would move 9 to 17 by up to 40%."""
    config = ModelConfig(num_hidden_layers=24, num_local_experts=32)
    np.testing.assert_allclose(inverse_frequencies(config)[index], value, rtol=5e-7)


def test_concentration_is_squared_into_the_attention_scale():
    config = ModelConfig(num_hidden_layers=24, num_local_experts=32)
    assert attention_scale(config) == pytest.approx(1.3465735902799727**2 / 8, rel=1e-12)


@pytest.mark.parametrize("name", ROPE_CASES)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_every_parameter_has_the_effect_that_it_has_in_transformers(name, key):
    raw = hf_config(SMALL)
    del raw["rope_scaling"], raw["initial_context_length"]
    config = ModelConfig.from_dict(raw | {key: ROPE_CASES[name]})
    want = np.array(GOLDEN[name]["inverse_frequencies"])
    np.testing.assert_allclose(inverse_frequencies(config), want, rtol=3e-7)
    assert attention_scale(config) == pytest.approx(GOLDEN[name]["attention_factor"] ** 2 / 8, rel=1e-12)


def test_the_parameters_compared_with_transformers_have_different_effects():
    same = {"null": "published", "truncated by default": "truncated"}
    found = [GOLDEN[name] for name in ROPE_CASES if name not in same]
    assert all(one != other for n, one in enumerate(found) for other in found[:n])
    assert all(GOLDEN[name] == GOLDEN[other] for name, other in same.items())
