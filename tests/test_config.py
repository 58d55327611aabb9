"""Every config.json is read, or refused in one line."""

import json

import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError
from tests.support.checkpoints import SMALL, hf_config, original_config

DEEP = json.loads("[" * 900 + "]" * 900)
"""A value that Python can parse but neither copy nor write."""
ODD = [None, True, -1, 0, 1.5, 10**400, float("inf"), float("nan"), "8", "x", [], [[1]], {}, {"factor": []}, ["a"] * 4]
ODD += [DEEP, 1e308, 5e-324]
SPELLINGS = {"hf": hf_config, "original": original_config}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_odd_value_anywhere_is_read_or_refused_in_one_line(spelling):
    lines = []
    raw = SPELLINGS[spelling](SMALL)
    rope = raw.get("rope_scaling", {})
    variants = [raw | {key: odd} for key in raw for odd in ODD]
    variants += [raw | {"rope_scaling": rope | {key: odd}} for key in rope for odd in ODD]
    for variant in variants:
        try:
            ModelConfig.from_dict(variant)
        except CheckpointError as error:
            lines.append(str(error))
    assert len(lines) > len(variants) / 3
    assert all("\n" not in line and len(line) < 400 for line in lines)


def under(key, value):
    raw = hf_config(SMALL)
    return raw | ({"rope_scaling": raw["rope_scaling"] | {key: value}} if key in raw["rope_scaling"] else {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_fast", 1e308),
        ("beta_slow", 5e-324),
        ("factor", 1e308),
        ("factor", 0),
        ("factor", "32"),
        ("factor", False),
        ("rope_theta", 1e308),
        ("rms_norm_eps", 1e300),
        ("hidden_size", "128"),
        ("hidden_size", 128.5),
        ("num_hidden_layers", True),
        ("original_max_position_embeddings", []),
        ("layer_types", {}),
        ("rope_scaling", 0),
    ],
)
def test_a_number_that_is_none_or_that_arithmetic_cannot_bear_is_refused(key, value):
    """A value that is false in Python, such as an empty list or zero, does not count as absent."""
    with pytest.raises(CheckpointError, match=key):
        ModelConfig.from_dict(under(key, value))


@pytest.mark.parametrize("raw", [None, [], 3, "text", {}])
def test_what_is_no_config_is_refused(raw):
    with pytest.raises(CheckpointError):
        ModelConfig.from_dict(raw)


def test_both_spellings_say_the_same():
    ours = ModelConfig.from_dict(hf_config(SMALL))
    assert ModelConfig.from_dict(original_config(SMALL)) == ours
    assert ModelConfig.from_dict(ours.to_dict()) == ours


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("change", [{"rope_type": "linear"}, {"rope_type": None}, {"truncate": True}])
def test_rotary_positions_of_another_kind_are_refused_rather_than_read_as_ours(key, change):
    raw = hf_config(SMALL)
    rope = raw.pop("rope_scaling")
    assert ModelConfig.from_dict(raw | {key: rope}) == ModelConfig.from_dict(hf_config(SMALL))
    with pytest.raises(CheckpointError, match=next(iter(change))):
        ModelConfig.from_dict(raw | {key: rope | change})
