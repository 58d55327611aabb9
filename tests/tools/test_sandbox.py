"""The sandbox's interpreter from call to call. `make sandbox-report` runs these after its attempts to get out."""

import time

import pytest

from gptoss_mlx.tools import sandbox
from gptoss_mlx.tools.tool import Outcome, perform
from tests.reports.sandbox import FOLDER

pytestmark = pytest.mark.slow


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 3.0)
    tool = sandbox.sandbox_tool(FOLDER)
    return lambda code, cancelled=lambda: False: perform(tool, {"code": code}, cancelled)


def test_variables_and_files_stay_and_a_last_value_is_shown(call):
    assert call("x = 41") == Outcome("")
    assert call("open('/mnt/data/n', 'w').write(str(x + 1)); x + 1") == Outcome("42\n")
    assert call("import numpy; print(open('/mnt/data/n').read(), numpy.arange(3).sum())") == (Outcome("42 3\n"))


def test_an_error_is_told_with_its_traceback_and_ends_nothing(call):
    call("x = 1")
    assert call("1 / 0").text.endswith("ZeroDivisionError: division by zero\n")
    assert call("x") == Outcome("1\n")


@pytest.mark.parametrize("code", ["while True: pass", "import os; os._exit(1)", "import os; os.abort()"])
def test_what_ends_the_interpreter_is_told_and_the_next_call_has_a_new_one_with_the_same_files(call, code):
    call("x = 1; open('/mnt/data/kept', 'w').write('k')")
    assert "variables are lost" in call(code).text
    assert call("open('/mnt/data/kept').read()") == Outcome("'k'\n")
    assert "NameError" in call("x").text


def test_a_cancelled_call_ends_soon_and_the_next_one_says_what_was_lost(call):
    call("x = 1")
    began = time.monotonic()
    assert call("while True: pass", lambda: time.monotonic() > began + 0.3) is None
    assert time.monotonic() < began + 2
    time.sleep(0.5)
    assert call("2") == Outcome(sandbox.LOST + "2\n")


def test_output_without_end_is_cut_and_said(call, monkeypatch):
    monkeypatch.setattr(sandbox, "OUTPUT_BYTES", 1000)
    said = call("print('x' * 5000)").text
    assert said == "x" * 1000 + "\n[stdout was cut off after 1,000 bytes]"
