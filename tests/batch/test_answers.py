"""The file of answers, whatever it was left like."""

import json
import subprocess
import sys

import pytest

from gptoss_mlx.batch import answers as module
from gptoss_mlx.batch.answers import Answers, Errors, beside
from gptoss_mlx.errors import StorageError, UsageError

RUN = {"input": {"sha256": "aa"}, "temperature": 0.0}
FIXED = {"date": "2025-06-28"}
RECORDS = [{"id": "a", "answer": "é\n"}, {"id": 2, "answer": "x"}, {"id": "batch_req_1", "custom_id": "c"}]


@pytest.fixture
def out(tmp_path):
    """Three answers."""
    path = tmp_path / "new" / "answers.jsonl"
    answers = Answers(path, RUN, FIXED)
    for record in RECORDS:
        answers.append(record)
    answers.close()
    return path


def reopened(path, run=RUN, fixed=FIXED):
    answers = Answers(path, run, fixed)
    answers.close()
    return answers


def test_answers_are_lines_in_order_and_known_again(out):
    assert [json.loads(line) for line in out.read_text().splitlines()] == RECORDS
    again = reopened(out, fixed={"date": "another day"})
    assert again.answered == {"a", "2", "c"}
    assert again.fixed == FIXED  # or the rest would be asked on another day than the first


def test_cut_anywhere_what_is_whole_stays_and_the_torn_line_goes(out):
    whole = out.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        out.write_bytes(whole[:length])
        answers = reopened(out)
        kept = max([end for end in ends if end <= length], default=0)
        assert out.read_bytes() == whole[:kept]
        assert len(answers.answered) == ends.index(kept) + 1 if kept else not answers.answered
    out.write_bytes(whole + b"\0" * 100)  # as some file systems leave it after a power cut
    reopened(out)
    assert out.read_bytes() == whole


def test_damage_before_the_end_is_not_cut_away(out):
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[0] + b"{broken\n" + lines[2])
    with pytest.raises(StorageError, match="line 2"):
        reopened(out)
    assert len(out.read_bytes().splitlines()) == 3


def test_an_answer_that_is_there_twice_is_not_taken_for_one(out):
    out.write_bytes(out.read_bytes() * 2)
    with pytest.raises(StorageError, match="line 4"):
        reopened(out)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RUN | {"temperature": 1.0}, "temperature was 0.0, now it is 1.0"),
        (RUN | {"input": {"sha256": "bb"}}, "the input is another"),
        (RUN | {"system": "new"}, "system was null"),
    ],
)
def test_going_on_with_something_else_is_refused_and_nothing_touched(out, run, words):
    before = out.read_bytes()
    with pytest.raises(UsageError, match=words):
        reopened(out, run)
    assert out.read_bytes() == before


def test_without_any_answer_the_options_may_change(out):
    out.write_bytes(b"")
    reopened(out, RUN | {"temperature": 1.0})
    assert json.loads(beside(out, "run.json").read_text())["run"]["temperature"] == 1.0


@pytest.mark.parametrize("note", [None, "", "{", "[]", "{}"])
def test_a_file_not_known_to_be_ours_is_left_alone(out, note):
    beside(out, "run.json").unlink()
    if note is not None:
        beside(out, "run.json").write_text(note)
    out.write_text("my diary")
    with pytest.raises(StorageError, match="choose another --out"):
        reopened(out)
    assert out.read_text() == "my diary"


def test_two_at_once_are_not_possible(out):
    code = f"from gptoss_mlx.batch.answers import *; Answers(Path({str(out)!r}), {{}}, {{}})"
    answers = Answers(out, RUN, FIXED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    answers.close()
    assert "another batch is writing it" in done.stderr


def test_a_full_disk_is_one_line_and_the_torn_answer_is_cut_off_next_time(out, monkeypatch):
    answers = Answers(out, RUN, FIXED)
    real, left = module.os.write, 20

    def write(file, data):
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        count = real(file, data[:left])
        left -= count
        return count

    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(StorageError, match="No space left"):
        answers.append({"id": "d", "answer": "x" * 100})
    answers.close()
    monkeypatch.undo()
    assert not out.read_bytes().endswith(b"\n")
    assert reopened(out).answered == {"a", "2", "c"}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Answers(tmp_path / "file" / "answers.jsonl", RUN, FIXED)


def test_half_a_surrogate_pair_is_written_as_something(out):
    answers = Answers(out, RUN, FIXED)
    answers.append({"id": "s", "answer": "\ud800"})
    answers.close()
    assert "s" in reopened(out).answered


def test_errors_are_those_of_this_run(tmp_path):
    out = tmp_path / "answers.jsonl"
    errors = Errors(out)
    errors.append({"line": 1})
    errors.append({"line": 2})
    errors.close()
    assert (tmp_path / "answers.errors.jsonl").read_text() == '{"line":1}\n{"line":2}\n'
    Errors(out).close()
    assert not (tmp_path / "answers.errors.jsonl").exists()
    assert beside(tmp_path / "a.b", "run.json").name == "a.b.run.json"
