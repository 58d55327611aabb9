"""``gptoss-mac models``: what is installed is listed, chosen, removed and verified to the last bit."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model_folder import ModelFolder
from tests.batch.conftest import SMALLER
from tests.cli.test_chat_and_run import Terminal, plain
from tests.support.checkpoints import write_checkpoint
from tests.support.cli import run_cli
from tests.support.gguf_checkpoint import write_gguf
from tests.support.models import random_model
from tests.support.random_checkpoint import tokenizer_of


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
    assert "gptoss-mac convert 20b" in err


@pytest.fixture
def models(whole, tmp_path, monkeypatch):
    """A home with two models, 20b and mine."""
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPTOSS_MAC_MODEL", raising=False)
    folder = tmp_path / "home" / "models"
    for name in ("mine", "20b"):
        shutil.copytree(whole, folder / name)
    return folder


def size_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("words", [["models"], ["models", "list"]])
def test_a_list_has_name_size_dense_type_source_and_the_default(models, words):
    (models / "broken").mkdir()
    (models / "broken" / "manifest.json").write_text("{")
    code, out, err = run_cli(*words)
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    size = f"{size_of(models / 'mine') / 1e3:.1f} kB"
    assert rows == [
        ["20b", size, "bf16", "source (Hugging Face)", "never", "never", "default"],
        ["mine", size, "bf16", "source (Hugging Face)", "never", "never", ""],
    ]
    assert err.startswith(f"gptoss-mac: {models / 'broken' / 'manifest.json'}: damaged")


def listed(name):
    code, out, _ = run_cli("models", "list", "--json")
    assert code == 0
    return next(model for model in json.loads(out) if model["name"] == name)


def is_now(time):
    return abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()) < 60


def test_a_list_as_json_has_bytes_and_times_in_utc(models):
    assert listed("20b") == {
        "name": "20b",
        "bytes": size_of(models / "20b"),
        "dense": "bf16",
        "source": "source (Hugging Face)",
        "last_used": None,
        "verified": None,
        "default": True,
    }


def test_a_use_is_listed(models):
    assert run_cli("run", "hi", "--model", "mine", "--max-tokens", "1")[0] in (0, 8, 13)
    assert is_now(listed("mine")["last_used"])
    assert listed("mine")["verified"] is listed("20b")["last_used"] is None


def test_a_verification_is_listed_until_one_fails(models):
    assert run_cli("models", "verify", "mine")[0] == 0
    assert is_now(listed("mine")["verified"])
    ModelFolder.open(models / "mine").verify()
    place = ModelFolder.open(models / "mine").tensor("head.weight")
    with (models / "mine" / "model-head.safetensors").open("r+b") as file:
        file.seek(place.offset)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    assert run_cli("models", "verify", "mine", "--against", models / "nowhere")[0] == 3
    assert listed("mine")["verified"], "a checkpoint that is not there says nothing about the model"
    assert run_cli("models", "verify", "mine")[0] == 3
    assert listed("mine")["verified"] is None


def test_a_terminal_gets_a_table_in_columns(models, tmp_path):
    assert run_cli("models", "verify", "mine")[0] == 0
    terminal = Terminal(["models"], tmp_path / "home")
    terminal.wait_for("mine.*\n")
    assert terminal.process.wait(20) == 0
    head, *rows = [line.rstrip() for line in plain(terminal.raw).splitlines()]
    assert re.fullmatch(r"Name +Size +Dense +Source +Last used +Verified", head)
    assert [row.split()[0] for row in rows] == ["20b", "mine"]
    assert all(row[head.index("Dense") :].startswith("bf16 ") for row in rows)
    today = f"{datetime.now():%Y-%m-%d}"
    assert [row[head.index("Verified") :].split() for row in rows] == [["never", "default"], [today]]


def test_a_model_is_compared_with_what_ollama_has(tmp_path, monkeypatch):
    weights = write_gguf(tmp_path / "m.gguf", SMALLER, tokenizer_of(SMALLER))
    folder = convert(weights, tmp_path / "model").destination
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    digest = "0123456789abcdef" * 4
    (tmp_path / "ollama" / "blobs").mkdir(parents=True)
    weights.rename(tmp_path / "ollama" / "blobs" / f"sha256-{digest}")
    manifest = tmp_path / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "gpt-oss" / "20b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    code, out, err = run_cli("models", "verify", folder, "--against", "ollama:gpt-oss:20b")
    assert code == 0, err
    assert "as in ollama:gpt-oss:20b: " in out
    code, _, err = run_cli("models", "verify", folder, "--against", "ollama:other")
    assert code == 3
    assert "ollama has no model 'other'" in err


def test_a_model_is_compared_with_its_checkpoint_and_the_first_difference_is_named(tmp_path):
    source = write_checkpoint(tmp_path / "hf", SMALLER, seed=63)
    folder = convert(source, tmp_path / "model").destination
    code, out, _ = run_cli("models", "verify", folder, "--against", source)
    assert code == 0
    checked, compared = out.splitlines()
    assert checked.startswith(f"{folder}: all ")
    numbers = r"27 tensors bit for bit, 6 matrices in q8 within their bound \(largest error (0\.9\d\d|1\.000) of it\)"
    assert re.fullmatch(rf"as in {source}: {numbers}", compared)
    other = write_checkpoint(tmp_path / "other", SMALLER, seed=64)
    code, out, err = run_cli("models", "verify", folder, "--against", other)
    assert (code, out) == (3, "")
    line = err.splitlines()[-1]
    assert line.startswith(
        f"gptoss-mac: {folder}/model-embedding.safetensors: tensor 'embedding.weight' is further from "
    )


def test_a_bit_that_changes_a_q8_code_within_the_bound_is_found_by_the_checksum(tmp_path):
    source = write_checkpoint(tmp_path / "hf", SMALLER, seed=65)
    folder = convert(source, tmp_path / "model").destination
    model = ModelFolder.open(folder)
    name = "layers.0.qkv.weight"
    place = model.tensor(name)
    code = int(np.flatnonzero(model.read_part(name, 0, place.nbytes) == 254)[0])
    with model.file_of(name).open("r+b") as file:
        file.seek(place.offset + code)
        file.write(b"\xff")
    code, _, err = run_cli("models", "verify", folder, "--against", source)
    assert code == 3
    assert f"tensor '{name}' is damaged" in err


def test_a_list_of_nothing_says_how_to_get_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    code, out, err = run_cli("models")
    assert (code, out) == (0, "")
    assert err == "no model is installed; for the small one run: gptoss-mac convert tiny\n"


def test_the_folder_of_a_model_is_printed_for_any_of_its_names(models):
    assert run_cli("models", "path", "openai/gpt-oss-20b") == (0, f"{models / '20b'}\n", "")


def test_the_default_is_chosen_printed_and_used(models, monkeypatch):
    assert run_cli("models", "default") == (0, "20b\n", "")
    assert run_cli("models", "default", "mine") == (0, "mine\n", "")
    assert run_cli("models", "default") == (0, "mine\n", "")
    assert [line.split("\t")[-1] for line in run_cli("models")[1].splitlines()] == ["", "default"]
    assert run_cli("models", "default", "llama")[0] == 4
    (models / "mine" / "config.json").write_text("{")
    _, _, err = run_cli("run", "hi")
    assert str(models / "mine" / "config.json") in err, "the default is opened"
    monkeypatch.setenv("GPTOSS_MAC_MODEL", "gpt-oss:20b")
    assert [line.split("\t")[-1] for line in run_cli("models")[1].splitlines()] == ["default", ""]
    assert run_cli("models", "default", "mine") == (
        0,
        "gpt-oss:20b\n",
        "gptoss-mac: stored, but GPTOSS_MAC_MODEL is set and goes first\n",
    )


def test_a_removal_needs_consent(models, tmp_path):
    code, out, err = run_cli("models", "rm", "gpt-oss-20b")
    assert (code, out) == (2, "")
    assert err == "gptoss-mac: '20b' is kept; answer y at a terminal, or give --yes\n"
    terminal = Terminal(["models", "rm", "20b"], tmp_path / "home")
    terminal.wait_for(r"Delete .*/models/20b \(\d.* kB\)\? \[y/N\] ")
    terminal.type("n\r")
    assert terminal.process.wait(20) == 2
    assert (models / "20b").is_dir()
    terminal = Terminal(["models", "rm", "20b"], tmp_path / "home")
    terminal.wait_for(r"\[y/N\] ")
    terminal.type("y\r")
    terminal.wait_for("deleted ")
    assert terminal.process.wait(20) == 0
    assert [path.name for path in models.iterdir()] == ["mine"]
    code, out, _ = run_cli("models", "rm", "mine", "--yes")
    assert code == 0
    assert out.startswith(f"deleted {models / 'mine'}, ")
    assert list(models.iterdir()) == []
    assert run_cli("models", "rm", "mine", "--yes")[0] == 4


def test_ctrl_c_at_the_question_removes_nothing(models, tmp_path):
    terminal = Terminal(["models", "rm", "20b"], tmp_path / "home")
    terminal.wait_for(r"\[y/N\] ")
    terminal.type("\x03")
    assert terminal.process.wait(20) == 130
    assert (models / "20b").is_dir()


def test_a_checkpoint_named_as_a_model_is_refused_with_the_command_or_converted_at_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    source = write_checkpoint(tmp_path / "gpt-oss-20b", SMALLER, seed=62)
    code, out, err = run_cli("run", "hi", "--model", source)
    assert (code, out) == (4, "")
    assert err == (
        f"gptoss-mac: {source}: is a checkpoint, which must be converted once; "
        f"run: gptoss-mac convert {source} && gptoss-mac chat --model 20b\n"
    )
    asked = Terminal(["chat", "--model", source, "--session", "first"], tmp_path / "home", columns=200)
    asked.wait_for(r"gpt-oss-20b is a checkpoint\. Convert it now to 20b\? \[y/N\] ")
    asked.type("n\r")
    asked.wait_for("must be converted once")
    assert asked.process.wait(20) == 4
    assert not (tmp_path / "home" / "models").exists()
    asked = Terminal(["chat", "--model", source, "--max-tokens", "2"], tmp_path / "home", columns=200)
    asked.wait_for(r"\[y/N\] ")
    asked.type("yes\r")
    asked.wait_for("20b · medium")
    asked.wait_for("> ")
    asked.type("\x04")
    assert asked.process.wait(20) == 0
    ModelFolder.open(Path(tmp_path / "home" / "models" / "20b"))
