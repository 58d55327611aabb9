"""What Macs that work together would hold, and what is predicted of their speed."""

import json

import pytest

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.distributed.macs import PASSAGE, Mac, join_macs, read_macs
from gptoss_mlx.errors import UsageError
from gptoss_mlx.prediction.speed import predict
from tests.support.cli import run_cli

TWENTY = PUBLISHED["20b"]


def test_a_list_names_chips_and_memory():
    assert read_macs("M4 Pro 24GB, Apple M2 16 GB") == [Mac("M4 Pro", 24), Mac("M2", 16)]
    assert read_macs("m4 pro 24gb,m2 16gb") == [Mac("M4 Pro", 24), Mac("M2", 16)]


@pytest.mark.parametrize(
    "text", ["", "M2", "16GB", "M9 16GB", "M4 Pro 0GB", "M4 Plus 16GB", "M4 24GB M2 16GB", "M2 16GB,", "M4 Max 64GB"]
)
def test_what_names_no_known_mac_is_refused_with_the_form(text):
    with pytest.raises(UsageError, match="M4 Pro 24GB, M2 16GB"):
        read_macs(text)


def test_macs_together_take_as_long_as_one_that_holds_everything_and_the_passages():
    """Each chip reads its own layers at its own speed, so equal chips add nothing but memory."""
    one = predict(TWENTY, "q8", "M4 Max").seconds
    two = join_macs(TWENTY, "q8", [Mac("M4 Max", 36)] * 2)
    assert two.seconds is not None
    assert sum(two.seconds) == pytest.approx(one, rel=1e-3)
    assert two.rate(0) > two.rate(1e-3)
    assert 1 / two.rate(1e-3) == pytest.approx(sum(two.seconds) + 2e-3)


def test_a_slower_mac_slows_a_token_by_its_part():
    alone = join_macs(TWENTY, "q8", [Mac("M4 Max", 36)] * 2)
    mixed = join_macs(TWENTY, "q8", [Mac("M4 Max", 36), Mac("M2", 24)])
    assert mixed.rate(0) < alone.rate(0)
    assert mixed.seconds[1] > 2 * alone.seconds[1]


def test_nothing_is_predicted_where_experts_are_read_from_disk():
    joined = join_macs(PUBLISHED["120b"], "q8", [Mac("M4 Pro", 24), Mac("M2", 16)])
    assert joined.seconds is None
    assert joined.rate(PASSAGE["Thunderbolt, TCP"]) is None


def test_doctor_shows_the_plan_and_says_that_speeds_are_predictions():
    code, out, err = run_cli("doctor", "--macs", "M4 Max 64GB, M4 Max 64GB")
    assert (code, err) == (0, "")
    assert "18 to 35" in out
    assert [line.strip() for line in out.splitlines() if line.startswith(" ")] == [
        "Predictions for 20b",
        "Predictions for 120b",
    ]
    assert out.count("prediction, Thunderbolt, TCP") == 2
    assert "Nothing of this was measured on a Mac" in out
    code, out, _ = run_cli("doctor", "--macs", "M4 Max 64GB, M4 Max 64GB", "--json")
    found = json.loads(out)
    assert code == 0
    assert [rank["layers"] for rank in found["120b"]["ranks"]] == [[0, 17], [18, 35]]
    assert set(found["20b"]["predicted_tokens_per_second"]) == set(PASSAGE)


@pytest.mark.parametrize("option", [("--kernels",), ("--memory", "10GB")])
def test_doctor_does_not_mix_other_macs_with_this_machine(option):
    code, _, err = run_cli("doctor", "--macs", "M2 16GB", *option)
    assert code == 2
    assert "--macs" in err


def test_a_model_with_fewer_layers_than_macs_does_not_hide_the_plan_of_another():
    code, out, err = run_cli("doctor", "--macs", ", ".join(["M4 Max 64GB"] * 30), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert "use fewer" in found["20b"]["problem"]
    assert len(found["120b"]["ranks"]) == 30
