"""``gptoss-mac chat`` and ``gptoss-mac run``, as a user runs them."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.prediction.expert_trace import read_trace
from gptoss_mlx.prediction.replay import steps
from tests.support.checkpoints import SMALL
from tests.support.cli import run_cli
from tests.support.models import endless_model, random_model

ROOT = Path(__file__).parent.parent.parent
ANSWERING = r"(?:hello|words)\s+(?:read.*tokens\s+)*(?!read)\w{3}"
"""What a terminal gets when the model has begun to answer a message that ends in one of these words."""

COMMAND = [sys.executable, "-m", "gptoss_mlx.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("cli"), SMALL, seed=31).folder.path


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    return endless_model(tmp_path_factory.mktemp("cli"), SMALL, seed=31)


@pytest.fixture
def gptoss(tmp_path):
    def call(*arguments, stdin=""):
        environment = os.environ | {"GPTOSS_MAC_HOME": str(tmp_path), "COLUMNS": "80", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, text=True, cwd=ROOT, env=environment
        )

    return call


def test_run_json_holds_answer_thought_counts_and_reason(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    code, out, _ = run_cli("run", "--model", folder, "hi", "--max-tokens", 20, "--json", "--seed", 5)
    result = json.loads(out)
    assert set(result) == {"answer", "thought", "finish_reason", "usage"}
    assert 0 < result["usage"]["completion_tokens"] <= 20
    assert result["finish_reason"] in ("stop", "length")
    assert code == (8 if not result["answer"] else 13 if result["finish_reason"] == "length" else 0)


def test_run_repeats_a_seed_and_reads_standard_input(gptoss, folder):
    options = "--model", folder, "--max-tokens", 12, "--seed", 9
    first = gptoss("run", "hi", *options)
    second = gptoss("run", *options, stdin="hi")
    assert first.stdout == second.stdout != ""
    assert first.stderr == second.stderr


def test_run_and_chat_write_which_experts_were_chosen_to_a_new_file(gptoss, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    options = "--model", folder, "--max-tokens", 12, "--seed", 9
    traced = run_cli("run", "hi", *options, "--trace-experts", tmp_path / "run")
    assert traced[1] == run_cli("run", "hi", *options)[1]
    assert sum(not step.prompt for step in steps(*read_trace(tmp_path / "run"))) == 11, "the last token is not read"
    code, out, err = run_cli("run", "hi", *options, "--trace-experts", tmp_path / "run")
    assert (code, out, err.count("\n")) == (5, "", 1)
    assert "exists" in err
    assert gptoss("chat", *options, "--trace-experts", tmp_path / "chat", stdin="hi\n").returncode == 0
    assert steps(*read_trace(tmp_path / "chat"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("hi", "--model", "20b"), 4, ["20b is not installed"]),
        (("hi", "--model", "openai/gpt-oss-120b"), 4, ["120b is not installed"]),
        (("hi", "--model", "llama"), 4, ["llama", "20b"]),
        (("hi", "--model", "../../no-such-folder"), 4, ["../../no-such-folder"]),
        (("hi", "--model", "tests"), 3, ["tests", "gptoss-mac convert"]),
        (("hi", "--model", "m" * 300), 4, ["mmm"]),
        (("hi", "--model", "./" + "m" * 300), 4, ["mmm"]),
        (("hi", "--model", "~nobody-of-that-name/m"), 4, ["~nobody-of-that-name/m"]),
        (("  ", "--model", "20b"), 2, ["empty"]),  # before the model is looked for
        (("hi", "--temperature", "nan"), 2, ["temperature"]),
        (("hi", "--max-tokens", "0"), 2, ["max-tokens"]),
        (("hi", "--reasoning", "huge"), 2, ["huge"]),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_with_its_exit_code(
    tmp_path, monkeypatch, folder, arguments, code, words
):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(ROOT)
    if "--model" not in arguments:
        arguments = (*arguments, "--model", folder)
    ended, out, err = run_cli("run", *arguments)
    assert (ended, out) == (code, "")
    assert all(word in err for word in words), err
    if code != 2:
        assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "chat"])
def test_input_that_is_no_text_is_refused_in_one_line(folder, command):
    done = subprocess.run(
        [*COMMAND, command, "--model", str(folder)],
        input=b"hi \xff\xfe\n",
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},  # as under macOS
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"gptoss-mac: standard input: byte 0xff at offset 3, on line 1, is not UTF-8")
    assert done.stderr.count(b"\n") == 1


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


def in_bytes(folder, home, *arguments, stdin=b"", **environment):
    """Run a command with arguments and input as bytes, as a shell under another locale does."""
    arguments = [os.fsencode(str(one)) if not isinstance(one, bytes) else one for one in arguments]
    environment = os.environ | {"GPTOSS_MAC_HOME": str(home), "COLUMNS": "80"} | environment
    command = [*COMMAND, *arguments, "--model", str(folder), "--max-tokens", "12", "--seed", "9"]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, env=environment)


def test_a_prompt_is_the_same_from_wherever_and_in_whatever_locale_it_comes(folder, tmp_path):
    text = "Übermaß 🙂"
    plain = in_bytes(folder, tmp_path, "run", "--json", stdin=text.encode())
    for arguments, stdin, environment in (
        ([text], b"", {}),
        ([text], b"", ASCII),
        ([], text.encode("utf-16"), {}),
        ([], text.encode(), ASCII),
    ):
        done = in_bytes(folder, tmp_path, "run", "--json", *arguments, stdin=stdin, **environment)
        assert b"Traceback" not in done.stderr, done.stderr
        said = json.loads(done.stdout)
        expected = json.loads(plain.stdout)
        assert (said["answer"], said["thought"]) == (expected["answer"], expected["thought"])
        assert said["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


@pytest.mark.parametrize("environment", [{}, ASCII])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["run", b"a\xff"], "prompt"),
        (["run", "hi", "--system", b"a\xff"], "--system"),
        (["chat", "--system", b"a\xff"], "--system"),
        (["chat", "--session", b"a\xff"], "--session"),
    ],
)
def test_an_argument_that_is_no_text_is_refused_in_one_line(folder, tmp_path, arguments, name, environment):
    done = in_bytes(folder, tmp_path, *arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"gptoss-mac: {name}: byte 0xff at offset 1")
    assert done.stderr.count(b"\n") == 1


def test_a_session_under_ascii_keeps_all_that_was_said_and_is_shown_without_a_traceback(folder, tmp_path):
    options = "chat", "--session", "demo"
    done = in_bytes(folder, tmp_path, *options, "--system", "Größe", stdin="Übermaß 🙂\n".encode(), **ASCII)
    assert done.returncode == 0, done.stderr
    broken = in_bytes(folder, tmp_path, *options, stdin=b"more \xff\n", **ASCII)
    assert broken.returncode == 2
    environment = os.environ | {"GPTOSS_MAC_HOME": str(tmp_path)} | ASCII
    for command in ("show", "export"):
        arguments = [*COMMAND, "logs", command, "demo"]
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
        assert done.stderr == ""
    kept = json.loads(done.stdout)
    assert kept["instructions"] == "Größe"
    assert [message["content"] for message in kept["messages"] if message["role"] == "user"] == ["Übermaß 🙂"]


def test_a_name_is_shown_in_one_line_with_its_control_characters_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    for arguments in (["run", "hi", "--model", "a\x1b[31m\nb"], ["chat", "--session", "a\x1b[31m\nb"]):
        code, _, err = run_cli(*arguments)
        assert code in (2, 4)
        assert "\x1b" not in err
        assert "a\\x1b[31m\\nb" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("run --model {0} hi --max-tokens 12 --seed 9 >/dev/full", 5),
        ("run --model {0} hi --max-tokens 12 --seed 9 --json >/dev/full", 5),
        ("run --model {0} hi --max-tokens 12 --seed 9 >&-", 13),
        ("run --model {0} <&-", 2),
        ("chat --model {0} <&-", 0),
    ],
)
def test_streams_that_are_full_or_closed_give_no_traceback(folder, line, code):
    if "/dev/full" in line and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = f"exec {sys.executable} -m gptoss_mlx.cli {line.format(folder)}"
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.PIPE, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") <= 1


def test_a_reader_that_goes_away_gives_no_traceback(folder):
    command = f"{sys.executable} -m gptoss_mlx.cli run --model {folder} hi --max-tokens 200 --seed 9 | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, cwd=ROOT)
    assert len(done.stdout) == 1
    assert done.stderr == b""


def test_a_piped_chat_answers_each_line_without_control_codes(gptoss, folder):
    lines = "hello\n/reasoning low\n/nonsense\nagain\n/quit\nnever read\n"
    done = gptoss("chat", "--model", folder, "--max-tokens", 8, "--seed", 1, stdin=lines)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert done.stdout.count("tokens/s") == 2
    assert "Reasoning: low." in done.stdout
    assert "Unknown command /nonsense" in done.stdout


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, arguments, home, columns=80):
        environment = os.environ | {"GPTOSS_MAC_HOME": str(home), "COLUMNS": str(columns), "TERM": "xterm"}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody answers here where the cursor is
        environment.pop("NO_COLOR", None)
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = ""
        self.used = 0

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, pattern, seconds=60):
        """Read until ``pattern`` matches the output without control codes. The next call searches behind the match."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, plain(self.raw)[self.used :])):
            assert time.monotonic() < end, f"no {pattern!r} in {self.raw!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.raw += os.read(self.master, 65536).decode("utf-8", "replace")
        self.used += found.end()


def plain(text):
    """The text without control sequences. One of them stands for a space."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.replace("\x08\x1b[2C", " "))


def test_ctrl_c_stops_the_reply_and_ctrl_d_leaves(endless, tmp_path):
    chat = Terminal(["chat", "--model", endless, "--temperature", "0"], tmp_path)
    chat.wait_for("> ")
    chat.type("hello\r")
    chat.wait_for(ANSWERING)
    chat.process.send_signal(signal.SIGINT)
    chat.wait_for("stopped by you")
    chat.wait_for("> ")
    chat.type("/help\r")
    chat.wait_for("/reasoning")
    chat.wait_for("> ")  # before it, Ctrl-D would end an unread line
    chat.type("\x04")
    assert chat.process.wait(20) == 0
    assert "hello" in (tmp_path / "history").read_text()
    assert (tmp_path / "history").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("locale", [{}, ASCII])
def test_a_line_typed_that_is_no_text_is_refused_and_the_chat_goes_on(folder, tmp_path, locale, monkeypatch):
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    chat = Terminal(["chat", "--model", folder, "--seed", "2", "--max-tokens", "4"], tmp_path)
    chat.wait_for("> ")
    os.write(chat.master, b"/bad \xff\r")
    chat.wait_for("byte 0xff at offset 5, on line 1, is not UTF-8")
    chat.wait_for("> ")
    os.write(chat.master, "/Größe\r".encode())
    chat.wait_for("Unknown command /Gr(öß|.xf6.xdf)e")
    chat.wait_for("> ")
    chat.type("\x04")
    assert chat.process.wait(20) == 0


def test_every_command_is_carried_out_and_listed_in_the_help():
    from gptoss_mlx.cli.chat_commands import ALIASES, COMMANDS, help_text

    source = (ROOT / "gptoss_mlx/cli/chatting.py").read_text()
    carried_out = set(re.findall(r'case "(/[a-z]+)"|command == "(/[a-z]+)"', source))
    names = {command.name for command in COMMANDS}
    assert {one or other for one, other in carried_out} == names
    assert set(ALIASES.values()) <= names
    assert all(name in help_text() for name in (*names, *ALIASES))


def test_a_conversation_is_kept_continued_shown_exported_and_removed(gptoss, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    options = "--model", folder, "--max-tokens", 8, "--seed", 1, "--session", "demo"
    assert gptoss("chat", *options, stdin="first words\n").returncode == 0
    again = gptoss("chat", "--continue", "--max-tokens", 8, stdin="second words\n/new\nthird\n")
    assert again.returncode == 0, again.stderr
    assert "prompt tokens read" in again.stdout
    listed = run_cli("logs")[1].splitlines()
    assert [line.split()[0] for line in listed] == ["2", "1"]
    assert " demo " in listed[1]
    shown = run_cli("logs", "show", "demo")[1]
    assert shown.index("first words") < shown.index("second words")
    assert "third" not in shown
    exported = json.loads(run_cli("logs", "export", "demo")[1])
    assert [m["content"] for m in exported["messages"] if m["role"] == "user"] == ["first words", "second words"]
    assert run_cli("logs", "export", "demo", "--format", "markdown")[1] == shown
    assert run_cli("logs", "search", "secon")[1].startswith("1 ")
    assert run_cli("logs", "rm", "demo") == (0, "", "")
    code, _, error = run_cli("logs", "show", "demo")
    assert (code, error.count("\n")) == (4, 1)
