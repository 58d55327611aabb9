"""The answers file and the errors file, in every state that an earlier run can leave them."""

import json
import os
import subprocess
import sys

import pytest

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.companions import RUN_RECORD, beside
from gptoss_mlx.errors import StorageError, UsageError

RUN = {"input": {"sha256": "aa"}, "temperature": 0.0}
FIXED = {"date": "2025-06-28"}
RECORDS = [
    {"id": "a", "answer": "é\n"},
    {"id": 2, "answer": "x"},
    {"id": "batch_req_1", "custom_id": "c", "response": {}},
]
ERROR = {"line": 1, "id": "x", "error": {"code": "failed", "message": "no", "param": None}}


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
    assert set(again.answered) == {"a", "2", "c"}
    assert again.fixed == FIXED  # else the rest would be asked with another date


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


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (0, b"{broken\n"),
        (1, b"{broken\n"),
        (2, b"{broken\n"),
        (2, b'{"id":"c","answ\n'),
        (2, b"\0\0\0\n"),
        (1, b"\n"),
        (1, b"[1]\n"),
        (2, b'{"line":1,"id":"x","error":{}}\n'),
        (2, b"a remark of mine"),  # not torn, because an answer does not begin so
    ],
)
def test_what_is_no_answer_is_named_and_nothing_is_changed(out, place, line):
    lines = out.read_bytes().splitlines(keepends=True)
    lines[place] = line
    content = b"".join(lines)
    out.write_bytes(content)
    record = beside(out, RUN_RECORD).read_bytes()
    with pytest.raises(StorageError, match=f"line {place + 1} is not an answer.*repair or remove it"):
        reopened(out)
    assert out.read_bytes() == content
    assert beside(out, RUN_RECORD).read_bytes() == record


@pytest.mark.parametrize("form", [{"indent": 2}, {"indent": None}])
@pytest.mark.parametrize("end", ["", "\n"])
def test_answers_made_into_another_form_are_not_taken_for_torn_ones(out, form, end):
    content = json.dumps(RECORDS, **form) + end
    out.write_text(content)
    with pytest.raises(StorageError, match="line 1 is not an answer"):
        reopened(out)
    assert out.read_text() == content


def test_a_torn_line_is_cut_only_when_the_run_may_go_on(out):
    out.write_bytes(out.read_bytes() + b'{"id":"d"')
    before = out.read_bytes()
    with pytest.raises(UsageError):
        reopened(out, RUN | {"temperature": 1.0})
    assert out.read_bytes() == before
    reopened(out)
    assert before.startswith(out.read_bytes())
    assert out.read_bytes().endswith(b"\n")


def test_an_answer_that_is_there_twice_is_not_taken_for_one(out):
    out.write_bytes(out.read_bytes() * 2)
    with pytest.raises(StorageError, match="line 4"):
        reopened(out)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (RUN | {"temperature": 1.0}, "temperature was 0.0, now it is 1.0"),
        (RUN | {"input": {"sha256": "bb"}}, "its input was another"),
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
    assert json.loads(beside(out, RUN_RECORD).read_text())["run"]["temperature"] == 1.0


@pytest.mark.parametrize("record", [None, "", "{", "[]", "{}"])
def test_a_file_not_known_to_be_ours_is_left_alone(out, record):
    beside(out, RUN_RECORD).unlink()
    if record is not None:
        beside(out, RUN_RECORD).write_text(record)
    out.write_text("my diary")
    with pytest.raises(StorageError, match="choose another --out"):
        reopened(out)
    assert out.read_text() == "my diary"


def test_two_at_once_are_not_possible(out):
    code = f"from gptoss_mlx.batch.answers import *; Answers(Path({str(out)!r}), {{}}, {{}})"
    answers = Answers(out, RUN, FIXED)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    answers.close()
    assert "another batch is writing to it" in done.stderr


def test_a_full_disk_is_one_line_and_the_torn_answer_is_cut_off_next_time(out, monkeypatch):
    answers = Answers(out, RUN, FIXED)
    real = os.write
    left = 20

    def write(file, data):
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        count = real(file, data[:left])
        left -= count
        return count

    monkeypatch.setattr("os.write", write)
    with pytest.raises(StorageError, match="No space left"):
        answers.append({"id": "d", "answer": "x" * 100})
    answers.close()
    monkeypatch.undo()
    assert not out.read_bytes().endswith(b"\n")
    assert set(reopened(out).answered) == {"a", "2", "c"}


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Answers(tmp_path / "file" / "answers.jsonl", RUN, FIXED)


def test_half_a_surrogate_pair_is_written_as_something(out):
    answers = Answers(out, RUN, FIXED)
    answers.append({"id": "s", "answer": "\ud800"})
    answers.close()
    assert "s" in reopened(out).answered


def test_a_folders_name_that_is_no_utf8_is_noted_and_known_again(out):
    out.write_bytes(b"")
    run = RUN | {"model": "m\udcff 🙂"}
    answers = Answers(out, run, FIXED)
    answers.append(RECORDS[0])
    answers.close()
    assert set(reopened(out, run).answered) == {"a"}


def test_errors_are_those_of_this_run(tmp_path):
    out = tmp_path / "answers.jsonl"
    errors = Errors(out)
    errors.append(ERROR)
    errors.append(ERROR)
    errors.close()
    path = tmp_path / "answers.errors.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ERROR, ERROR]
    path.write_bytes(path.read_bytes()[:-20])  # torn by a kill
    Errors(out).close()
    assert not path.exists()


def test_errors_that_no_run_wrote_are_left_alone(tmp_path):
    out = tmp_path / "answers.jsonl"
    path = tmp_path / "answers.errors.jsonl"
    path.write_text(json.dumps(ERROR) + "\nlook at this one!\n")
    with pytest.raises(StorageError, match="line 2 was not written by a batch"):
        Errors(out)
    assert path.read_text().endswith("look at this one!\n")
    path.unlink()
    errors = Errors(out)
    path.write_text("somebody was quicker")
    with pytest.raises(StorageError):
        errors.append(ERROR)
    assert path.read_text() == "somebody was quicker"
