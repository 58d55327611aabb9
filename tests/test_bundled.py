"""``tiny`` is converted when first asked for, and again when the bundled checkpoint changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx import bundled
from gptoss_mlx.errors import StorageError
from gptoss_mlx.home import models_dir
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL, write_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    return tmp_path


def tiny():
    return models_dir() / "tiny"


def test_it_is_converted_once(home):
    bundled.install_tiny()
    made = (tiny() / "manifest.json").stat().st_mtime_ns
    ModelFolder.open(tiny()).verify()
    bundled.install_tiny()
    assert (tiny() / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("damage", ["older", "torn"])
def test_one_made_from_another_checkpoint_or_damaged_is_replaced(home, damage):
    if damage == "older":
        convert(write_checkpoint(home / "checkpoint", SMALL), tiny())
    else:
        bundled.install_tiny()
        (tiny() / "config.json").write_text("{")
    bundled.install_tiny()
    assert ModelFolder.open(tiny()).config.hidden_size == 128
    assert ModelFolder.open(tiny()).config.vocab_size != SMALL["vocab_size"]


def test_a_folder_of_the_users_own_of_that_name_is_left_alone(home):
    convert(write_checkpoint(home / "mine", SMALL), tiny())
    with pytest.raises(StorageError, match="not the bundled model"):
        bundled.install_tiny()
    assert ModelFolder.open(tiny()).config.vocab_size == SMALL["vocab_size"]


def test_a_model_whose_manifest_names_no_source_is_left_alone(home):
    bundled.install_tiny()
    manifest = json.loads((tiny() / "manifest.json").read_text())
    (tiny() / "manifest.json").write_text(json.dumps(manifest | {"source": None}))
    with pytest.raises(StorageError, match="not the bundled model"):
        bundled.install_tiny()


@pytest.mark.parametrize("kept", [[], ["config.json", "model-layer-000.safetensors"]])
def test_what_a_killed_replacement_left_is_replaced(home, kept):
    bundled.install_tiny()
    for path in tiny().iterdir():
        if path.name not in kept:
            path.unlink()
    (models_dir() / ".tiny.replaced").mkdir()
    (models_dir() / ".tiny.replaced" / "half").write_text("")
    bundled.install_tiny()
    ModelFolder.open(tiny()).verify()
    assert sorted(path.name for path in models_dir().iterdir()) == [".tiny.lock", "tiny"]


@pytest.mark.parametrize("kind", ["file", "folder of notes", "link"])
def test_anything_else_of_that_name_is_left_alone(home, kind):
    models_dir().mkdir(parents=True)
    if kind == "file":
        tiny().write_text("mine")
    elif kind == "link":
        tiny().symlink_to(home)
    else:
        tiny().mkdir()
        (tiny() / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not the bundled model"):
        bundled.install_tiny()
    assert os.path.lexists(tiny())


def test_loading_it_installs_it(home):
    assert gptoss_mlx.load("tiny").config.hidden_size == 128
    ModelFolder.open(tiny()).verify()


@pytest.mark.parametrize("there", ["nothing", "one of another checkpoint", "a part of one"])
def test_three_processes_that_ask_at_once_all_get_it(home, there):
    if there == "one of another checkpoint":
        convert(write_checkpoint(home / "checkpoint", SMALL), tiny())
    elif there == "a part of one":
        bundled.install_tiny()
        (tiny() / "manifest.json").unlink()
        (models_dir() / ".tiny.partial").mkdir()
    code = "import gptoss_mlx; print(gptoss_mlx.load('tiny', verify=True).config.hidden_size)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        for _ in range(3)
    ]
    assert [process.communicate() for process in processes] == [(b"128\n", b"")] * 3
    assert sorted(path.name for path in models_dir().iterdir()) == [".tiny.lock", "tiny"]


def test_two_that_install_it_do_so_one_after_the_other(home):
    """Without the lock the second would remove what the first has just made."""
    with bundled.installing():
        code = "import os; from gptoss_mlx import bundled; os.write(1, b'.'); bundled.install_tiny()"
        waiting = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        assert waiting.stdout.read(1) == b"."
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        assert not tiny().exists()
    assert waiting.wait(20) == 0
    ModelFolder.open(tiny()).verify()
