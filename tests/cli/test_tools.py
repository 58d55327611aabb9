"""Tools on the command line: the question before a call, what is shown of it, and what is refused."""

import contextlib
import io
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from gptoss_mlx.cli import tools as offered
from gptoss_mlx.cli.display import ReplyView
from gptoss_mlx.cli.tools import Consent, call_lines, opened_tools, result_lines
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ToolCall, ToolResult
from gptoss_mlx.harmony import Message, Namespace, tool_call
from gptoss_mlx.tools.tool import Tool

ROOT = Path(__file__).parent.parent.parent
ADD = ToolCall("add", {"a": 2}, tool_call("functions.add", '{"a": 2}'))
CODE = ToolCall("python", {"code": "x = 1\nx\x1b[31m"}, Message("assistant", "x = 1\nx\x1b[31m", recipient="python"))


def tool(trusted=False):
    return Tool(Namespace("python", "d"), lambda arguments, stop: "", "sandbox", trusted)


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard input. Return a function that types at it once the question is asked."""
    ours, theirs = pty.openpty()
    stdin = os.fdopen(theirs, "r")
    asked = io.StringIO()
    threads = []

    def type_keys(keys):
        while "? " not in asked.getvalue():
            time.sleep(0.01)
        os.write(ours, keys)
        with contextlib.suppress(OSError):  # at the end
            while os.read(ours, 1024):  # what is echoed, because a terminal takes it
                pass

    def type_when_asked(keys: bytes):
        monkeypatch.setattr("sys.stdin", stdin)  # not before, because pytest sets them anew for the test itself
        monkeypatch.setattr("sys.stderr", asked)
        threads.append(threading.Thread(target=type_keys, args=[keys], daemon=True))
        threads[-1].start()
        return asked

    yield type_when_asked
    asked.write("? ")
    stdin.close()
    for thread in threads:
        thread.join()
    os.close(ours)


@pytest.mark.parametrize(
    ("typed", "may"), [(b"y\n", True), (b"Yes\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)]
)
def test_a_call_is_made_only_if_the_user_says_yes(terminal, typed, may):
    asked = terminal(typed)
    paused = []
    assert Consent(pause=lambda: paused.append(1))(tool(), CODE) is may
    assert paused == [1]
    assert "Run python? [y]es, [N]o, [a]lways for sandbox: " in asked.getvalue()


def test_always_holds_for_what_comes_from_the_same_source(terminal):
    terminal(b"a\n")
    consent = Consent()
    assert consent(tool(), CODE)
    assert consent(tool(), CODE), "it is not asked again"
    assert consent.sources == {"sandbox"}


def test_a_reply_that_is_stopped_at_the_question_makes_no_call(terminal):
    terminal(b"")
    began = time.monotonic()
    assert not Consent(stopped=lambda: time.monotonic() - began > 0.3)(tool(), CODE)


def test_calls_that_nobody_can_be_asked_about_are_refused_before_a_model_is_loaded(tmp_path):
    path = tmp_path / "t.py"
    path.write_text("def add(a: int): return a")
    with pytest.raises(UsageError, match="--allow-tools"), opened_tools([str(path)], None, Consent()):
        pass
    with opened_tools([str(path)], None, Consent(always=True)) as tools:
        assert [one.name for one in tools] == ["add"]
    with opened_tools(None, None, Consent()) as tools:
        assert tools == ()


def test_the_sandbox_is_refused_with_what_installs_it_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'gptoss-mac\[tools\]'"):
        offered._named("python")


def test_a_call_is_shown_whole_and_a_result_by_its_beginning():
    assert call_lines(ADD) == ['→ add({"a": 2})']
    assert call_lines(CODE) == ["→ python", "  x = 1", "  x\\x1b[31m"]
    assert result_lines(ToolResult("add", "", False)) == ["← "]
    lines = result_lines(ToolResult("add", "\n".join(map(str, range(1000))), False))
    assert lines[:2] == ["← 0", "  1"]
    assert lines[-1] == "  … 994 more lines"


def test_a_paused_view_has_printed_all_and_goes_on():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60, color_system=None)
    with ReplyView(console) as view:
        view.show(ADD)
        view.pause()
        assert '→ add({"a": 2})' in out.getvalue()
        view.show(ToolResult("add", "5", False))
    assert out.getvalue().index("→ add") < out.getvalue().index("← 5")


PRODUCT = (
    "def calculate(expression: str) -> str:\n    a, b = expression.split('*')\n    return str(int(a) * int(b) + 1)\n"
)


def test_the_bundled_model_answers_with_what_a_function_of_a_file_returned(tmp_path):
    (tmp_path / "calc.py").write_text(PRODUCT)
    options = ["--model", "tiny", "--temperature", "0", "--tools", str(tmp_path / "calc.py"), "--allow-tools"]
    command = [sys.executable, "-m", "gptoss_mlx.cli", "run", *options, "--no-log", "--prefix-disk", "off"]
    done = subprocess.run(
        [*command, "What is 17 times 23?"], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, done.stdout) == (0, "17 * 23 = 392.\n")
    assert done.stderr == '\n→ calculate({"expression": "17*23"})\n← 392\n'
