"""A run changes only files that a batch wrote. It refuses others with their names before any work."""

import json
import os
import re
from pathlib import Path

import pytest

from gptoss_mlx.batch.answers import Answers
from gptoss_mlx.batch.companions import beside, check_output
from gptoss_mlx.errors import StorageError, UsageError

RECORD = {"out": "a.jsonl", "run": {"version": 1}, "fixed": {}}
ERROR = {"line": 1, "id": "x", "error": {"code": "failed", "message": "no", "param": None}}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "a.jsonl"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_companions_share_the_answers_name():
    assert beside(Path("folder") / "a.jsonl", "run.json") == Path("folder") / "a.run.json"
    assert beside(Path("folder") / "a.b", "run.json") == Path("folder") / "a.b.run.json"


def test_an_empty_folder_and_a_runs_own_files_are_fine(out):
    check_output(out)
    out.write_text("")
    beside(out, "run.json").write_text(json.dumps(RECORD))
    line = json.dumps(ERROR, separators=(",", ":"))
    for errors in ("", f"{line}\n", f"{line}\n{line}\n{line[:9]}", line[:3], "\0\0"):
        beside(out, "errors.jsonl").write_text(errors)
        check_output(out)


@pytest.mark.parametrize("name", ["a.jsonl", "a.run.json", "a.errors.jsonl"])
@pytest.mark.parametrize("kind", ["itself", "symbolic", "hard"])
def test_the_input_is_never_among_what_is_written_whatever_it_is_called(tmp_path, out, name, kind):
    written = tmp_path / name
    written.write_text(json.dumps(RECORD) if name == "a.run.json" else json.dumps(ERROR))
    given = tmp_path / "in.jsonl"
    match kind:
        case "itself":
            given = written
        case "symbolic":
            given.symlink_to(written)
        case "hard":
            os.link(written, given)
    with given.open() as file, pytest.raises(UsageError, match=f"{re.escape(name)}: is the input itself"):
        check_output(out, os.fstat(file.fileno()))


@pytest.mark.parametrize("name", ["a.jsonl", "a.run.json", "a.errors.jsonl"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "folder", "pipe", "device"])
def test_what_is_no_ordinary_file_is_neither_followed_nor_written(tmp_path, out, name, kind):
    path = tmp_path / name
    target = tmp_path / "target"
    if kind == "link":
        target.write_text("mine")
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case _:
            path.symlink_to(target)
    words = "is not an ordinary file" if kind in ("folder", "pipe") else "is a link"
    with pytest.raises(StorageError, match=f"{re.escape(name)}: {words}.*choose another --out"):
        Answers(out, {}, {})
    assert target.exists() == (kind == "link")
    assert not target.exists() or target.read_text() == "mine"
    assert {name} <= {path.name for path in tmp_path.iterdir()} <= {name, "target"}


def test_a_link_laid_after_the_check_is_not_followed_either(tmp_path, out, monkeypatch):
    monkeypatch.setattr("gptoss_mlx.batch.answers.check_output", lambda out: out.symlink_to(tmp_path / "target"))
    with pytest.raises(StorageError, match="choose another --out"):
        Answers(out, {}, {})
    assert not (tmp_path / "target").exists()


def test_devices_are_no_place_for_answers():
    with pytest.raises(StorageError, match="/dev/null: is not an ordinary file"):
        check_output(Path("/dev/null"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.run.json", "{}"),
        ("a.run.json", '{"run": "my jogging", "fixed": {}}'),
        ("a.run.json", "\xff"),
        ("a.run.json", json.dumps(RECORD | {"out": "a"})),  # --out a has a run record of the same name
        ("a.errors.jsonl", "my own\n"),
        ("a.errors.jsonl", '{"prompt": "What is 2 + 3?"}\n'),
        ("a.errors.jsonl", '{"line": 1, "error": "a linter\'s"}\n'),
        ("a.errors.jsonl", json.dumps(ERROR) + "\nand a remark"),
    ],
)
def test_a_companion_that_no_run_of_these_answers_wrote_is_left_alone(tmp_path, out, name, content):
    (tmp_path / name).write_text(content)
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=f"{re.escape(name)}: .*choose another --out"):
        Answers(out, {}, {})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["x.errors.jsonl", "x.run.json"])
def test_answers_are_not_named_as_companions_are(tmp_path, name):
    with pytest.raises(UsageError, match="choose another --out"):
        check_output(tmp_path / name)


def test_writing_the_run_record_touches_no_other_name(tmp_path, out):
    others = ("a.run.json.new", ".a.run.json.partial", f".a.run.json.{os.getpid()}.partial")
    for name in others:
        (tmp_path / name).write_text("mine")
    Answers(out, {}, {}).close()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "a.jsonl", "a.run.json"}
    assert all((tmp_path / name).read_text() == "mine" for name in others)
