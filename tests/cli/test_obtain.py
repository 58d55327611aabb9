"""A model that is not installed is got in one command, from a Hub that is asked first what it takes."""

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.model_folder import ModelFolder
from tests.support.fake_hub import FakeHub, Fault, files_of

ROOT = Path(__file__).parent.parent.parent
PROGRAM = "from gptoss_mlx.cli import main; main()"
TAKES = re.compile(
    r"20b is not installed; getting it takes a download of 2\.4 MB from http://127\.0\.0\.1:\d+/openai/gpt-oss-20b "
    r"\(about \d+ s at [\d.]+ [kMG]B/s\) and 5\.0 MB of disk at the most, 2\.6 MB afterwards \([\d.]+ [MGT]B are free\)"
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GPTOSS_MAC_MODEL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with FakeHub(files_of(checkpoint())) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
        yield hub


@pytest.fixture
def models(tmp_path):
    return tmp_path / "home" / "models"


def run(*words):
    """Run the command in a process of its own, because huggingface_hub reads its variables when it is imported."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_without_a_terminal_what_it_takes_is_the_error(hub, models):
    code, out, err = run("run", "--model", "gpt-oss:20b", "What is 3 + 4?")
    assert (code, out) == (4, "")
    line = err.removeprefix("gptoss-mac: ").rstrip("\n")
    assert TAKES.match(line), line
    assert line.endswith("; to do it, run: gptoss-mac convert 20b --yes")
    assert not models.exists()


def test_yes_downloads_converts_and_answers_on_a_clean_standard_output(hub, models):
    code, out, err = run("run", "--model", "20b", "--yes", "--temperature", "0", "What is 3 + 4?")
    assert (code, out) == (0, "3 + 4 = 7.\n")
    assert TAKES.match(err)
    assert "Downloading: 100%, 2.4 MB of 2.4 MB" in err
    assert f"20b: 2.6 MB in {models / '20b'}" in err
    assert os.listdir(models) == ["20b"]
    assert ModelFolder.open(models / "20b").manifest["source"]["folder"] == "openai/gpt-oss-20b"
    asked = len(hub.requests)
    assert run("run", "--model", "20b", "--temperature", "0", "What is 3 + 4?")[:2] == (0, "3 + 4 = 7.\n")
    assert len(hub.requests) == asked, "an installed model asks nothing of the network"


def test_a_hub_that_cannot_be_reached_is_one_line(hub, models, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = run("chat", "--model", "20b")
    assert (code, out) == (4, "")
    assert err.startswith("gptoss-mac: 20b is not installed, and cannot be got: 127.0.0.1 cannot be reached")
    assert err.count("\n") == 1


def test_offline_mode_is_honoured(hub, models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run("convert", "20b", "--yes")
    assert code == 12
    assert "HF_HUB_OFFLINE is set" in err
    assert not hub.requests


def test_another_repository_is_converted_under_its_own_name(hub, models):
    hub.repo_id = "unsloth/gpt-oss-20b"
    code, out, _ = run("convert", "unsloth/gpt-oss-20b", "--yes", "--dense", "bf16", "--keep-source")
    assert code == 0
    assert "Next: gptoss-mac chat --model unsloth-gpt-oss-20b" in out
    kept = models.parent / "checkpoints" / "unsloth-gpt-oss-20b"
    assert (kept / "model.safetensors").read_bytes() == (checkpoint() / "model.safetensors").read_bytes()


def at_a_terminal(*words):
    """Start the command at a terminal of its own. Return the process and the terminal's descriptor."""
    mine, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    return process, mine


def read_until(terminal, wanted):
    text = ""
    while wanted not in text:
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            break
    return text


def test_a_terminal_is_asked_and_then_the_chat_begins(hub, models):
    process, terminal = at_a_terminal("chat", "--model", "20b", "--temperature", "0")
    assert TAKES.search(read_until(terminal, "[y/N] "))
    os.write(terminal, b"y\n")
    text = read_until(terminal, "/help")
    assert "20b" in text
    os.write(terminal, b"What is 3 + 4?\n")
    assert "3 + 4 = 7." in read_until(terminal, "tokens/s")
    os.write(terminal, b"/quit\n")
    assert process.wait(10) == 0
    os.close(terminal)


def test_no_is_respected(hub, models):
    process, terminal = at_a_terminal("convert", "20b")
    read_until(terminal, "[y/N] ")
    os.write(terminal, b"n\n")
    assert "to do it, run: gptoss-mac convert 20b --yes" in read_until(terminal, "--yes").replace("\r\n", "")
    assert process.wait(10) == 4
    assert not models.exists()
    os.close(terminal)


def interrupted(hub, models, source="20b", *options):
    """Interrupt a download in the middle. Return what the command wrote on standard error."""
    hub.rate = 300_000
    command = [sys.executable, "-c", PROGRAM, "convert", source, "--yes", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    weights = models / f".{source.rpartition('/')[2]}.partial" / "download" / "model.safetensors.part"
    while not weights.exists() or weights.stat().st_blocks * 512 < 300_000:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - begun < 3
    hub.rate = None
    return err


def test_ctrl_c_stops_at_once_and_the_next_run_goes_on(hub, models):
    assert "Traceback" not in interrupted(hub, models)
    assert os.listdir(models) == [".20b.partial"]
    code, _, err = run("models", "list")
    assert re.search(r"20b: [\d.]+ [kM]B of an unfinished download; `gptoss-mac convert 20b` goes on", err)
    code, _, err = run("convert", "20b", "--yes")
    assert code == 0
    assert "MB more, " in err
    assert os.listdir(models) == ["20b"]


def test_ctrl_c_is_heard_while_a_small_file_does_not_come(hub, models):
    hub.faults = [Fault("hub", "/tokenizer.json", silent=8)]
    command = [sys.executable, "-c", PROGRAM, "convert", "20b", "--yes"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not hub.asked("hub", path="/tokenizer.json"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert time.monotonic() - begun < 5
    assert "Traceback" not in err


def test_the_command_that_goes_on_is_the_one_that_began(hub, models):
    hub.repo_id = "someone/tune"
    interrupted(hub, models, "someone/tune", "--dense", "bf16")
    _, _, err = run("models", "list")
    command = re.search(r"`(.*)` goes on", err)[1]
    assert command == "gptoss-mac convert someone/tune --dense bf16"
    code, _, err = run(*command.split()[1:], "--yes")
    assert code == 0
    assert "MB more, " in err
    assert "starting over" not in err
    assert os.listdir(models) == ["tune"]


def test_an_unfinished_download_goes_on_though_a_copy_is_here(hub, models, tmp_path, monkeypatch):
    interrupted(hub, models)
    snapshot = tmp_path / "hf" / "hub" / "models--openai--gpt-oss-20b" / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint(), snapshot)
    code, _, err = run("convert", "20b", "--yes")
    assert code == 0, err
    assert "MB more, " in err


def test_a_model_that_is_installed_is_not_offered_again(hub, models):
    assert run("convert", "20b", "--yes")[0] == 0
    asked = len(hub.requests)
    code, _, err = run("convert", "20b")
    assert (code, err) == (
        5,
        f"gptoss-mac: {models / '20b'}: exists already; remove it or choose another place with --out\n",
    )
    assert len(hub.requests) == asked


def test_the_command_in_a_refusal_has_all_options(hub, models, tmp_path):
    options = ["--dense", "bf16", "--keep-source", "--out", str(tmp_path / "my model")]
    _, _, err = run("convert", "20b", *options)
    command = shlex.split(err.rpartition("; to do it, run: ")[2])
    assert command == ["gptoss-mac", "convert", "20b", *options, "--yes"]


def test_a_kept_source_is_used_again(hub, models):
    assert run("convert", "20b", "--yes", "--keep-source")[0] == 0
    shutil.rmtree(models / "20b")
    asked = len(hub.requests)
    code, _, err = run("convert", "20b", "--yes", "--dense", "bf16")
    assert code == 0
    assert "20b, kept by an earlier download" in err
    assert len(hub.requests) == asked


def test_an_unfinished_download_can_be_discarded(hub, models):
    interrupted(hub, models)
    assert os.listdir(models) == [".20b.partial"]
    code, out, _ = run("models", "rm", "gpt-oss:20b", "--yes")
    assert code == 0
    assert out.startswith(f"deleted {models / '.20b.partial'}, ")
    assert os.listdir(models) == []
    assert run("models", "rm", "20b", "--yes")[0] == 4


@pytest.fixture
def copies(hub, tmp_path, monkeypatch):
    """Put the checkpoint in the Hugging Face cache, and say nothing else is on this machine."""
    for name in ("HF_HUB_CACHE", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    # The built native library stays where it is found.
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    snapshot = tmp_path / "hf" / "hub" / "models--openai--gpt-oss-20b" / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint(), snapshot)
    return snapshot


def test_yes_takes_a_copy_that_is_here_instead_of_the_network(hub, models, copies):
    code, out, err = run("run", "--model", "20b", "--yes", "--temperature", "0", "What is 3 + 4?")
    assert (code, out) == (0, "3 + 4 = 7.\n")
    assert f"20b: converting {copies}, openai/gpt-oss-20b in the Hugging Face cache (Hugging Face)" in err
    assert not hub.requests
    assert (copies / "model.safetensors").exists(), "what another program has is left alone"


def test_a_copy_that_is_here_is_named_without_a_terminal(hub, models, copies):
    code, _, err = run("chat", "--model", "20b")
    assert code == 4
    command = f"gptoss-mac convert {copies} --out {models / '20b'}"
    assert err.rstrip().endswith(f"; to convert it, run: {command}")
    assert run(*command.split()[1:])[0] == 0
    assert run("run", "--model", "20b", "--temperature", "0", "What is 3 + 4?")[:2] == (0, "3 + 4 = 7.\n")


@pytest.mark.parametrize(("answer", "requests"), [(b"\n", False), (b"d\n", True), (b"9\n1\n", False)])
def test_a_terminal_chooses_among_copies(hub, models, copies, answer, requests):
    process, terminal = at_a_terminal("convert", "20b")
    text = read_until(terminal, "Convert which? [1] ")
    assert "  1  openai/gpt-oss-20b in the Hugging Face cache (Hugging Face), 2.4 MB" in text
    for line in answer.splitlines(keepends=True):
        os.write(terminal, line)
    if requests:
        read_until(terminal, "[y/N] ")
        os.write(terminal, b"y\n")
    read_until(terminal, "Next: gptoss-mac chat --model 20b")
    assert process.wait(10) == 0
    assert bool(hub.requests) is requests
    assert os.listdir(models) == ["20b"]
    os.close(terminal)
