"""``gptoss-mac batch`` as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx import bundled
from tests.batch.conftest import SMALLER
from tests.cli.test_chat_and_run import Terminal
from tests.support.cli import run_cli
from tests.support.models import random_model

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "gptoss_mlx.cli", "batch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("cli"), SMALLER, seed=51).folder.path


@pytest.fixture
def batch(tmp_path, folder):
    def call(*arguments, stdin=None, model=folder):
        options = ["--model", str(model), "--max-tokens", "4", "--seed", "1"]
        environment = os.environ | {"GPTOSS_MAC_HOME": str(tmp_path / "home"), "COLUMNS": "80"}
        return subprocess.run(
            [*COMMAND, *options, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment,
        )

    return call


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_prompts_piped_in_are_answered_bad_ones_reported_and_a_second_run_has_nothing_to_do(batch, tmp_path):
    out = tmp_path / "new" / "answers.jsonl"
    lines = '{"prompt": "a", "x\\u001b\\ny": 1}\n{"prompt": "b", "temperature": -1}\n'
    lines += '{"id": "c", "prompt": "c", "model": "gpt-4o"}\n'
    first = batch("-", "--out", out, "--include-thinking", stdin=lines)
    assert first.returncode == 10
    assert first.stdout == ""
    assert "\x1b" not in first.stderr
    assert "read as jsonl" in first.stderr
    assert "2 of 3 answered" in first.stderr
    assert "another model (gpt-4o)" in first.stderr
    assert "ignored unknown fields: x\\x1b\\ny\n" in first.stderr
    assert re.search(r"1 of 3 lines could not be answered; see .*answers\.errors\.jsonl", first.stderr)
    assert {record["id"] for record in records(out)} == {"line-1", "c"}
    assert "thought" in records(out)[0]
    errors = records(tmp_path / "new" / "answers.errors.jsonl")
    assert [(error["line"], error["id"]) for error in errors] == [(2, "line-2")]
    before = out.read_bytes()
    second = batch("-", "--out", out, "--include-thinking", stdin=lines)
    assert second.returncode == 10
    assert "2 of 3 were answered before" in second.stderr
    assert "nothing to do" in second.stderr
    assert out.read_bytes() == before
    assert records(tmp_path / "new" / "answers.errors.jsonl") == errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((".",), "'.': cannot be read"),
        (("",), "'': cannot be read"),
        (("in.csv", "--csv", "--out", "out.csv"), "with out.jsonl the table is out.csv"),
    ],
)
def test_what_names_no_file_of_its_kind_is_one_line(arguments, words):
    code, out, err = run_cli("batch", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none.txt", "--out", "out.jsonl"), 2, "none.txt: cannot be read"),
        (("in.txt", "--out", "in.txt"), 2, "in.txt: is the input itself"),
        (("new.errors.jsonl", "--out", "new.jsonl"), 2, "new.errors.jsonl: is the input itself"),
        (("bytes.txt", "--out", "out.jsonl"), 2, "byte 0xff at offset 2, on line 2, is not UTF-8"),
        (("in.txt", "--out", "out.jsonl", "--concurrency", "0"), 2, "--concurrency"),
        (("in.txt", "--out", "out.jsonl", "--concurrency", "many"), 2, "--concurrency"),
        (("in.txt", "--out", "out.jsonl", "--temperature", "nan"), 2, "temperature"),
        (("in.txt", "--out", "out.jsonl", "--max-tokens", "-5"), 2, "--max-tokens"),
        (("in.txt", "--out", "out.jsonl", "--csv"), 2, "is read as text"),
        (("in.txt", "--out", "diary.txt"), 5, "choose another --out"),
        (("twice.jsonl", "--out", "out.jsonl"), 2, "lines 1 and 2 have the same id 'x'"),
        (("in.txt", "--out", "out.jsonl", "--model", "nothing"), 4, "nothing"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(batch, tmp_path, arguments, code, words):
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "diary.txt").write_text("mine")
    (tmp_path / "twice.jsonl").write_text('{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}\n')
    (tmp_path / "new.errors.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "bytes.txt").write_bytes(b"a\n\xff\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = [str(tmp_path / one) if one.endswith((".txt", ".jsonl")) else one for one in arguments]
    done = batch(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_other_options_or_another_input_are_noticed(batch, tmp_path):
    source = tmp_path / "in.txt"
    out = tmp_path / "out.jsonl"
    source.write_text("a\n")
    assert batch(source, "--out", out).returncode == 0
    other = batch(source, "--out", out, "--reasoning", "high")
    assert other.returncode == 2
    assert 'reasoning was "medium", now it is "high"' in other.stderr
    source.write_text("a\nb\n")
    assert "its input was another" in batch(source, "--out", out).stderr


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda n: str(n)
)
def test_a_signal_keeps_what_is_finished_and_the_same_command_goes_on(batch, folder, tmp_path, number, exit_code):
    source = tmp_path / "in.txt"
    out = tmp_path / "out.jsonl"
    total = 300
    source.write_text("a\n" * total)
    arguments = [str(source), "--out", str(out), "--model", str(folder), "--max-tokens", "4", "--seed", "1"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (out.exists() and out.read_bytes().count(b"\n") > 5):
        time.sleep(0.005)
        assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == exit_code
    count = len(records(out))
    assert 5 < count < total
    assert f"stopped with {count} of {total} answered" in said
    assert batch(source, "--out", out).returncode == 0
    assert {record["id"] for record in records(out)} == {f"line-{number}" for number in range(1, total + 1)}
    assert len(records(out)) == total


def test_a_terminal_shows_a_bar_with_rate_and_errors(folder, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('broken\n{"prompt": "a"}\n{"prompt": "b"}\n')
    options = ["--model", folder, "--max-tokens", 30]
    shown = Terminal(["batch", source, "--out", tmp_path / "out.jsonl", *options], tmp_path)
    shown.wait_for(r"Answering .*3/3 .*tokens/s.*1 errors")
    shown.wait_for("2 of 3 answered")
    assert shown.process.wait(20) == 10


@pytest.mark.skipif(not bundled.checkpoint().exists(), reason="no bundled model")
def test_the_bundled_model_answers_the_prompts_shown_in_the_readme(batch, tmp_path):
    """The first lines of the file have all forms. The model gets most sums right, so each answer fits its prompt."""
    source = tmp_path / "in.jsonl"
    out = tmp_path / "out.jsonl"
    lines = (ROOT / "tests" / "data" / "prompts.jsonl").read_text().splitlines()[:20]
    source.write_text("\n".join(lines))
    options = ["--max-tokens", 100, "--temperature", 0, "--reasoning", "low", "--include-thinking"]
    done = batch(source, "--out", out, *options, model="tiny")
    assert done.returncode == 0, done.stderr
    answers = {record.get("custom_id") or record["id"]: json.dumps(record) for record in records(out)}
    right = 0
    for line in map(json.loads, lines):
        a, sign, b = re.search(r"(\d+) ([+-]) (\d+)", json.dumps(line)).groups()
        answer = answers.pop(line.get("custom_id") or line["id"])
        assert f"{a} {sign} {b}" in answer
        right += str(int(a) + int(b) if sign == "+" else int(a) - int(b)) in answer
    assert right >= 15
    assert not answers


@pytest.mark.skipif(not bundled.checkpoint().exists(), reason="no bundled model")
def test_a_table_is_answered_beside_its_columns_a_part_at_a_time(batch, tmp_path):
    source = tmp_path / "data.csv"
    source.write_text("A,b,sum\n1,2,?\n30,12,?\n7\n5,6,?\n")
    schema = {"type": "object", "properties": {"sum": {"type": "integer", "maximum": 99}}, "required": ["sum"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    options = ["--prompt", "What is {a} + {b}?", "--schema", tmp_path / "schema.json", "--csv"]
    options += ["--max-tokens", 300, "--think-tokens", 40]

    def table():
        return [line.split(",") for line in (tmp_path / "data.answers.csv").read_text().splitlines()]

    first = batch(source, *options, "--limit", 3, model="tiny")
    assert first.returncode == 10, first.stderr
    assert "2 of 3 answered" in first.stderr
    assert [row[:3] for row in table()] == [["A", "b", "sum"], ["1", "2", "?"], ["30", "12", "?"], ["7", "", ""]]
    again = batch(source, *options, "--retry-errors", model="tiny")
    assert again.returncode == 10
    assert "asking 1 lines again" in again.stderr
    assert len(table()) == 5, "the last line has no answer yet"
    assert batch(source, *options, model="tiny").returncode == 10
    header, *rows = table()
    assert header == ["A", "b", "sum", "answer.sum", "error"]
    assert all(int(row[3]) <= 99 for row in (rows[0], rows[1], rows[3]))
    assert rows[2][:4] == ["7", "", "", ""]
