"""When a model was used and verified is kept with it, and what cannot be kept disturbs nothing."""

import shutil
from datetime import UTC, datetime

import pytest

from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.records import FILES, Record, forget_verified, note_use, note_verified, read_record
from tests.batch.conftest import SMALLER
from tests.support.models import random_model


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models" / "mine").mkdir(parents=True)
    return tmp_path / "home" / "models" / "mine"


def test_what_was_noted_is_read_back_and_can_be_forgotten(model):
    assert read_record(model) == Record(None, None)
    note_use(model)
    note_verified(model)
    record = read_record(model)
    assert all(0 <= (datetime.now(UTC) - time).total_seconds() < 60 for time in (record.last_used, record.verified))
    forget_verified(model)
    assert read_record(model) == Record(record.last_used, None)
    forget_verified(model)
    assert [path.name for path in model.iterdir()] == ["last-used"]


@pytest.mark.parametrize("text", [b"", b"yesterday\n", b"\xff\xfe", b"2026" * 1000, b"0001-01-01T00:00:00+23:00\n"])
def test_a_damaged_file_counts_as_never(model, text):
    for name in FILES:
        (model / name).write_bytes(text)
    assert read_record(model) == Record(None, None)
    note_use(model)
    assert read_record(model).last_used


def test_a_use_that_cannot_be_noted_is_ignored_but_a_verification_is_an_error(model):
    shutil.rmtree(model)
    note_use(model)
    with pytest.raises(OSError, match="mine"):
        note_verified(model)
    assert not model.exists()


def test_nothing_is_noted_of_a_folder_that_is_not_installed(model, tmp_path):
    (tmp_path / "other").mkdir()
    for note in (note_use, note_verified, forget_verified):
        note(tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_the_files_leave_a_model_as_it_is(model, tmp_path):
    folder = random_model(tmp_path, SMALLER, seed=66).folder.path
    shutil.copytree(folder, model, dirs_exist_ok=True)
    before = ModelFolder.open(model).manifest
    note_use(model)
    note_verified(model)
    opened = ModelFolder.open(model)
    opened.verify()
    assert opened.manifest == before
