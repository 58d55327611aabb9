"""A signal ends a program at any moment without a traceback, with the shell's exit code, and loses nothing saved."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from gptoss_mlx.history import History
from tests.cli.test_chat_and_run import ANSWERING, COMMAND, Terminal
from tests.support.checkpoints import SMALL
from tests.support.models import endless_model

ROOT = Path(__file__).parent.parent.parent
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

PROGRAM = """
import os, runpy, signal, sys, threading
number, at, module = int(sys.argv[1]), sys.argv[2], sys.argv[3]
signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if at == f"import {name}":
            os.kill(os.getpid(), number)

if at.startswith("import"):
    sys.meta_path.insert(0, Finder())
else:
    timer = threading.Timer(float(at), os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
sys.argv[1:] = sys.argv[4:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a module as `python -m` does. Sends itself a signal when a given module is imported, or after some seconds."""

RUN = ("gptoss_mlx.cli", "run", "--model", "tiny", "--temperature", "0", "What is 347 + 58?")
HELP = ("gptoss_mlx.cli", "--help")
CHAT = ("tests.cli.scripted_chat",)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return endless_model(tmp_path_factory.mktemp("cli"), SMALL, seed=31)


def ended(home, number, at, arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number)), at, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"GPTOSS_MAC_HOME": str(home)},
    )
    assert done.stderr == ""
    return done.returncode


@pytest.mark.parametrize("module", ["typer", "rich", "numpy", "mlx._reprlib_fix", "tiktoken"])
def test_ctrl_c_as_something_is_imported_is_no_traceback(home, module):
    """mlx's C code imports too, and turns an exception raised there into an ImportError."""
    assert ended(home, signal.SIGINT, f"import {module}", RUN) == 130


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [*((HELP, s) for s in (0.03, 0.07, 0.11)), *((RUN, s) for s in (0.05, 0.35, 0.65)), (CHAT, 0.05), (CHAT, 0.6)],
)
def test_ctrl_c_at_any_moment_is_no_traceback(home, arguments, seconds):
    assert ended(home, signal.SIGINT, str(seconds), arguments) in (130, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_other_signals_end_a_program_that_starts_with_their_codes(home, number):
    assert ended(home, number, "import mlx._reprlib_fix", RUN) == CODES[number]


def test_what_nohup_started_outlives_its_terminal(home):
    process = subprocess.Popen(
        [*COMMAND, *RUN[1:]],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"GPTOSS_MAC_HOME": str(home)},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert process.returncode == 0
    assert "405" in process.stdout.read()


@pytest.mark.parametrize("number", CODES)
def test_run_stops_in_the_middle_of_its_answer(folder, number):
    command = [*COMMAND, "run", "--model", str(folder), "hi", "--temperature", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT)
    assert process.stdout.read(1), "generation has begun"
    process.send_signal(number)
    rest = process.communicate(timeout=20)[0]
    assert process.returncode == CODES[number]
    assert b"Traceback" not in rest


def said_in(home, name):
    with closing(History(home / "said" / "history.db")) as history:
        return [message["content"] for message in history.read(history.find(name)).messages]


@pytest.mark.parametrize(("number", "busy"), [(signal.SIGTERM, True), (signal.SIGHUP, False)])
def test_a_chats_transcript_is_kept(folder, tmp_path, number, busy):
    limit = () if busy else ("--max-tokens", 8)
    chat = Terminal(["chat", "--model", folder, "--temperature", "0", "--session", "kept", *limit], tmp_path)
    chat.wait_for("> ")
    chat.type("first words\r")
    chat.wait_for(ANSWERING if busy else "tokens/s.*\n> ")
    while chat.process.poll() is None:
        chat.process.send_signal(number)
        time.sleep(0.5)
    assert chat.process.returncode == CODES[number]
    assert said_in(tmp_path, "kept")[0] == "first words"
    assert "Traceback" not in chat.raw


def test_a_chats_transcript_is_kept_when_its_terminal_goes_away(folder, tmp_path):
    chat = Terminal(["chat", "--model", folder, "--temperature", "0", "--session", "kept"], tmp_path)
    chat.wait_for("> ")
    chat.type("first words\r")
    chat.wait_for(ANSWERING)
    os.close(chat.master)
    assert chat.process.wait(20) == 129
    assert said_in(tmp_path, "kept")[0] == "first words"
