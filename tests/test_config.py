"""Every config.json is read, or refused in one line."""

import json
import math
from pathlib import Path

import pytest

from gptoss_mlx.config import ModelConfig, read_config
from gptoss_mlx.errors import CheckpointError
from tests.support.checkpoints import SMALL, hf_config, original_config

GOLDENS = Path(__file__).parent / "data" / "goldens"
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
@pytest.mark.parametrize("change", [{"rope_type": "linear"}, {"rope_type": None}, {"truncate": None}])
def test_rotary_positions_of_another_kind_are_refused_rather_than_read_as_ours(key, change):
    raw = hf_config(SMALL)
    rope = raw.pop("rope_scaling")
    assert ModelConfig.from_dict(raw | {key: rope}) == ModelConfig.from_dict(hf_config(SMALL))
    with pytest.raises(CheckpointError, match=next(iter(change))):
        ModelConfig.from_dict(raw | {key: rope | change})


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_published_config_has_nothing_that_is_unknown(spelling):
    assert read_config(SPELLINGS[spelling](SMALL))[1] == ()


def test_a_config_as_transformers_saves_it_has_nothing_that_is_unknown():
    saved = json.loads((GOLDENS / "transformers-config.json").read_text())
    assert "rope_parameters" in saved
    assert read_config(saved) == (
        ModelConfig.from_dict(hf_config({"num_hidden_layers": 36, "num_local_experts": 128})),
        (),
    )


def test_unknown_fields_are_named_and_change_nothing():
    raw = hf_config(SMALL) | {"unsloth_fixed": True, "max_window_layers": 3, "dropout": None}
    assert read_config(raw) == (
        ModelConfig.from_dict(hf_config(SMALL)),
        ("dropout", "max_window_layers", "unsloth_fixed"),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", False),
        ("attention_bias", 1),
        ("attention_bias", None),
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
        ("swiglu_alpha", 1.5),
        ("partial_rotary_factor", 0.5),
        ("experts_per_token", 2),
        ("num_experts", 4),
        ("initial_context_length", 8192),
        ("original_max_position_embeddings", 8192),
        ("rope_ntk_beta", 16.0),
        ("sliding_window", None),
        ("head_dim", None),
        ("layer_types", ["full_attention"] * 3 + ["chunked_attention"]),
        ("rope.factor", 1),
    ],
)
def test_a_value_that_would_change_the_result_is_refused_by_name(key, value):
    with pytest.raises(CheckpointError) as refusal:
        read_config(hf_config(SMALL) | {key: value}, "the file")
    line = str(refusal.value)
    assert line.startswith("the file: ")
    assert key in line
    assert key == "rope.factor" or repr(value) in line or "chunked_attention" in line


@pytest.mark.parametrize("method", ["awq", "fp8", "bitsandbytes", None])
def test_experts_quantized_otherwise_are_refused_by_the_methods_name(method):
    with pytest.raises(CheckpointError, match=rf"quantization_config\.quant_method is {method!r}"):
        read_config(hf_config(SMALL) | {"quantization_config": {"quant_method": method}})


def with_rope(name="rope_scaling", without=(), **change):
    raw = hf_config(SMALL)
    rope = {key: value for key, value in raw.pop("rope_scaling").items() if key not in without}
    return raw | {name: rope | change}


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mrope_section", [8, 8, 16]),
        ("full_attention", {"rope_type": "yarn"}),
        ("partial_rotary_factor", 0.5),
        ("attention_factor", 0),
        ("attention_factor", "1"),
        ("rope_theta", 10000.0),
        ("type", "linear"),
        ("mscale", 0.707),
        ("mscale_all_dim", 1.0),
        ("factor", None),
    ],
)
def test_a_rotary_parameter_that_is_not_computed_with_is_refused_by_name(name, key, value):
    with pytest.raises(CheckpointError, match=key.replace("type", "rope_type|type")):
        read_config(with_rope(name, **{key: value}))


@pytest.mark.parametrize("key", ["rope_type", "factor", "original_max_position_embeddings"])
def test_a_rotary_parameter_that_programs_fill_in_differently_must_be_there(key):
    with pytest.raises(CheckpointError, match=f"no 'rope_scaling.{key}'"):
        read_config(with_rope(without=[key]))


def test_two_objects_of_rotary_parameters_must_say_the_same():
    rope = hf_config(SMALL)["rope_scaling"]
    same = hf_config(SMALL) | {"rope_parameters": dict(rope)}
    assert ModelConfig.from_dict(same) == ModelConfig.from_dict(hf_config(SMALL))
    with pytest.raises(CheckpointError, match="rope_scaling and rope_parameters differ"):
        ModelConfig.from_dict(hf_config(SMALL) | {"rope_parameters": rope | {"factor": 8.0}})


@pytest.mark.parametrize(
    "harmless",
    [
        {"attention_factor": None, "mscale": None, "mscale_all_dim": None, "partial_rotary_factor": None},
        {"attention_factor": 0.1 * math.log(32) + 1},
        {"mscale": 1, "mscale_all_dim": 0},
        {"partial_rotary_factor": 1.0, "type": "yarn", "short_factor": None},
    ],
)
def test_a_rotary_parameter_equal_to_what_gpt_oss_has_changes_nothing(harmless):
    assert read_config(with_rope(**harmless)) == (ModelConfig.from_dict(hf_config(SMALL)), ())


def test_a_model_folders_config_keeps_every_rotary_parameter():
    config = ModelConfig.from_dict(with_rope(truncate=True, attention_factor=1.5, factor=8.0))
    assert config.rope_scaling.truncate
    assert config.rope_scaling.attention_factor == 1.5
    assert read_config(json.loads(json.dumps(config.to_dict()))) == (config, ())
