"""The bench on the bundled model: a record, a stop, and what is refused before any work."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jsonschema
import pytest

from gptoss_mlx.bench import measuring
from gptoss_mlx.bundled import install_tiny
from gptoss_mlx.cli.bench import record_path
from tests.bench.test_report import SCHEMA
from tests.docs.pages import ROOT
from tests.support.cli import run_cli

SMALL = ("bench", "--model", "tiny", "--depth", "0", "--cool-down", "0")


def test_a_record_is_written_with_what_the_tables_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    at_once = partial(measuring.Effort, least=1, limit=0.0)  # ends the turns of a busy machine
    monkeypatch.setattr(measuring, "Effort", at_once)
    words = (*SMALL, "--prompt", "16", "--prompt", "200000", "--generate", "8", "--rows", "1", "--rows", "2")
    code, out, err = run_cli(*words, "--json", "all.json", "--record")
    assert code == 0, err
    (record,) = (path for path in tmp_path.iterdir() if path.name != "all.json")
    assert "-tiny-20" in record.name
    assert record.read_text() == (tmp_path / "all.json").read_text()
    found = json.loads(record.read_text())
    jsonschema.validate(found, SCHEMA)
    assert found["complete"]
    assert [each["label"] for each in found["results"]] == ["load", "first token", "pp16", "tg8", "tg8 B2"]
    assert found["left_out"][0]["label"] == "pp200000"
    assert f"{record.name} is a record of this machine" in out
    assert "Left out: pp200000 (it takes 200,000 positions, and the context holds" in out
    for label in ("load", "pp16", "tg8 B2"):
        assert label in out
    assert err.splitlines()[:3] == ["load: measured", "first token: measured", "pp16: measured"]
    assert str(tmp_path) not in record.read_text()


def test_ctrl_c_prints_what_was_measured(tmp_path):
    install_tiny()
    words = [sys.executable, "-m", "gptoss_mlx.cli", *SMALL, "--generate", "100000", "--prompt", "16"]
    with subprocess.Popen(
        [*words, "--json", str(tmp_path / "some.json")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while running.stderr.readline() != "pp16: measured\n":
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT
    assert "pp16" in out
    assert "Stopped: the tables hold what was measured until then." in out
    found = json.loads((tmp_path / "some.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert not found["complete"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--predict", "--json", "x.json"), "--predict measures nothing"),
        (("--quick", "--record"), "--quick takes too few turns for --record"),
        (("--record", "--turns", "4"), "--turns 4 is too few for --record; give 5 or more"),
        (("--peer-model", "x.gguf"), "--peer-model and --peer-python go with --against"),
        (("--against", "llama.cpp"), "name it: --peer-model FILE.gguf"),
        (("--against", "llama.cpp", "--peer-model", "absent.gguf"), "absent.gguf: no file"),
        (("--against", "mlx-lm", "--peer-python", "python3"), "--peer-python is for llama.cpp"),
        (("--json", "no/such/folder.json"), "its folder does not exist"),
    ],
)
def test_what_does_not_go_together_is_said_before_any_work(words, said):
    code, out, err = run_cli("bench", "--model", "tiny", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_predictions_say_in_every_heading_that_they_are_such():
    code, out, _ = run_cli("bench", "--predict")
    assert code == 0
    titles = [line for line in out.splitlines() if line.startswith(" ") and line.strip()]
    assert len(titles) == 3
    assert all("Prediction" in title for title in titles)
    for part in ("M4 Pro", "roofline", "median error of", "Five numbers"):
        assert part in out


@pytest.mark.parametrize("words", [("--json", "file/x.json"), ("--json", "."), ("--plot", "file")])
def test_a_place_that_takes_no_file_is_refused_before_any_work(words, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = run_cli("bench", "--model", "missing", *words)
    assert code in (2, 5)
    assert out == ""
    assert "folder" in err


def test_a_second_record_of_a_day_leaves_the_first_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = record_path("Apple M4 Pro", "gpt-oss-20b", "2026-11-27")
    assert first == Path("m4-pro-gpt-oss-20b-2026-11-27.json")
    first.touch()
    assert record_path("Apple M4 Pro", "gpt-oss-20b", "2026-11-27") == Path("m4-pro-gpt-oss-20b-2026-11-27-2.json")
