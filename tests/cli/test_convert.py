"""``gptoss-mac convert`` as a shell sees it."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx.model_folder import ModelFolder
from tests.convert.test_bad_checkpoints import edit_json
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.cli import run_cli

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "gpt-oss-20b", SMALL | {"num_hidden_layers": 1})


def test_piped_output_is_plain_lines(checkpoint, tmp_path):
    code, out, err = run_cli("convert", checkpoint, "--out", tmp_path / "my model")
    assert code == 0
    assert "\x1b" not in out + err
    assert "\r" not in out + err
    assert err.startswith("Converting: 100%, 1.0 MB of 1.0 MB, ")
    rows = dict(line.strip().split("  ", 1) for line in out.splitlines() if "  " in line.strip())
    assert rows["Model folder"].strip() == str(tmp_path / "my model")
    assert rows["Source layout"].strip() == "Hugging Face"
    assert rows["Dense"].strip() == "q8"
    assert out.splitlines()[-1] == f"Next: gptoss-mac chat --model '{tmp_path / 'my model'}'"


def test_a_folder_here_is_named_as_a_path(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run_cli("convert", checkpoint, "--out", "20b")
    assert out.splitlines()[-1] == "Next: gptoss-mac chat --model ./20b", "20b is what is installed"


def test_a_name_is_shown_as_it_is_without_markup_or_control_characters(checkpoint, tmp_path):
    code, out, _ = run_cli("convert", checkpoint, "--out", tmp_path / "a[red]b:smile:\x1b[31m")
    assert code == 0
    assert out.count("a[red]b:smile:\\x1b[31m") == 2
    assert "\x1b" not in out


def test_unknown_fields_of_the_config_are_listed_and_a_published_config_has_none(checkpoint, tmp_path):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    edit_json(other / "config.json", lambda raw: raw.update({"unsloth_version": "1", "a\x1b[31m": 2}))
    _, out, _ = run_cli("convert", other, "--out", tmp_path / "model")
    assert "Not used         unknown fields: a\\x1b[31m, unsloth_version" in map(str.rstrip, out.splitlines())
    _, out, _ = run_cli("convert", checkpoint, "--out", tmp_path / "published")
    assert "Not used" not in out


def test_a_value_that_is_not_implemented_is_one_line_with_its_name(checkpoint, tmp_path):
    other = shutil.copytree(checkpoint, tmp_path / "other")
    edit_json(other / "config.json", lambda raw: raw.update(attention_bias=False))
    code, out, err = run_cli("convert", other, "--out", tmp_path / "model")
    assert (code, out) == (3, "")
    assert err == (
        f"gptoss-mac: {other / 'config.json'}: attention_bias is False, this program computes only True; "
        "get a checkpoint without that\n"
    )


def test_a_terminal_gets_a_bar_with_bytes_and_rate(checkpoint, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gptoss_mlx.cli", "convert", str(checkpoint), "--out", str(tmp_path / "model")]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux raises it when the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert child.wait() == 0
    assert b"\x1b[" in shown
    assert b"Converting" in shown
    assert b"1.0/1.0 MB" in shown
    assert b"MB/s" in shown


def test_without_out_the_model_goes_under_the_home_by_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    code, out, _ = run_cli("convert", checkpoint, "--dense", "bf16")
    assert code == 0
    assert ModelFolder.open(tmp_path / "home" / "models" / "20b").manifest["quantization"]["dense"] == "bf16"
    assert out.splitlines()[-1] == "Next: gptoss-mac chat --model 20b"
    *_, err = run_cli(*out.splitlines()[-1].split()[2:], "--max-tokens", "0")
    assert err == "gptoss-mac: --max-tokens is 0; it must be 1 or more\n", "what is next is a command that parses"


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    source = write_checkpoint(tmp_path / "original", SMALL | {"num_hidden_layers": 1}, "original")
    code, out, _ = run_cli("convert", source, "--out", tmp_path / "model")
    assert code == 0
    assert "The checkpoint has no tokenizer.json, and its vocabulary of 512 is too small" in out
    assert "Next:" not in out


def test_an_unknown_dense_format_is_a_usage_error(checkpoint, tmp_path):
    code, _, err = run_cli("convert", checkpoint, "--out", tmp_path / "model", "--dense", "q4")
    assert code == 2
    assert "q4" in err
