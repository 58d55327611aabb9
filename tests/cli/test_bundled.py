"""``tiny`` is converted when first asked for, and again when the bundled checkpoint changes."""

import pytest

from convert import convert
from gptoss_mlx.cli import bundled
from gptoss_mlx.errors import StorageError
from gptoss_mlx.home import models_dir
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL, write_checkpoint


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
