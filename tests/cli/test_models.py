"""``gptoss-mac models verify``, and ``load(verify=True)``: one flipped bit of the weights is found."""

import shutil

import pytest

import gptoss_mlx
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model_folder import ModelFolder
from tests.batch.conftest import SMALLER
from tests.support.cli import run_cli
from tests.support.models import random_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("models"), SMALLER, seed=61).folder.path


@pytest.fixture
def flipped(whole, tmp_path):
    """A copy of the folder with the lowest bit of one byte in an expert's codes changed."""
    folder = shutil.copytree(whole, tmp_path / "flipped")
    experts = ModelFolder.open(folder).stretches()[2]
    with experts.file.open("r+b") as file:
        file.seek(experts.offset + experts.tensors["layers.0.experts.gate_up.weight"][0] + 1000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return folder


def test_a_whole_model_is_said_to_be_whole(whole):
    code, out, err = run_cli("models", "verify", whole)
    assert code == 0
    assert out == f"{whole}: all {len(ModelFolder.open(whole).names())} tensors are as they were converted\n"
    assert err.startswith("Verifying: 100%")


def test_a_flipped_bit_is_one_line_with_the_tensor_and_exit_code_3(flipped):
    code, out, err = run_cli("models", "verify", flipped)
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == (
        f"gptoss-mac: {flipped / 'model-layer-000.safetensors'}: tensor 'layers.0.experts.gate_up.weight' is damaged; "
        "convert the model again"
    )


def test_a_flipped_bit_stops_a_load_that_verifies(whole, flipped):
    gptoss_mlx.load(flipped)
    with pytest.raises(ModelFolderError, match=r"'layers\.0\.experts\.gate_up\.weight' is damaged"):
        gptoss_mlx.load(flipped, verify=True)
    assert gptoss_mlx.load(whole, verify=True).logits([[1, 2]]).shape == (1, 2, SMALLER["vocab_size"])


def test_a_model_that_is_not_there_is_exit_code_4(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    code, _, err = run_cli("models", "verify", "20b")
    assert code == 4
    assert "gptoss-mac convert gpt-oss-20b" in err
