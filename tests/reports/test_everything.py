"""Every target that README and docs name for their numbers is run, whatever becomes of the others."""

import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, all_pages
from tests.reports.everything import TARGETS, run_all

MAKE = """\
import sys
print("made", sys.argv[1])
print("and said", file=sys.stderr)
sys.exit(2 if sys.argv[1] == "bad" else 0)
"""


@pytest.fixture
def make(tmp_path):
    script = tmp_path / "make.py"
    script.write_text(MAKE)
    return sys.executable, str(script)


OTHERS = {"bench-report", "chat", "commands", "diagrams", "docs"}
"""Targets on the pages that measure nothing by themselves: a chat, and what writes and builds pages."""

FOR_A_GPU = {".venv-cuda", "gpu-bundle", "gpu-report", "gpu-test"}
"""Those that need NVIDIA's card or prepare for one: no number rests on them."""


def test_every_target_that_a_page_names_for_its_numbers_is_run():
    quoted = re.findall(r"`make ([^`]+)`|^make (.+)$", "\n".join(map(Path.read_text, all_pages())), re.MULTILINE)
    named = {target for pair in quoted for target in "".join(pair).split()}
    assert len(named) > 30
    assert named - OTHERS - FOR_A_GPU <= set(TARGETS)
    assert named >= OTHERS | FOR_A_GPU, "these lists name what a page names"


def test_every_target_is_one_of_the_makefile():
    rules = re.findall(r"^([\w.-]+(?: [\w.-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(TARGETS) <= {name for names in rules for name in names.split()}
    assert len(set(TARGETS)) == len(TARGETS)


def test_a_target_that_fails_does_not_stop_the_others_and_is_told(make, tmp_path, capfd):
    assert run_all(["good", "bad", "other"], tmp_path / "out", make) == 1
    said = capfd.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in said.splitlines() if line.startswith("│")]
    assert rows == [["good", "0"], ["bad", "2"], ["other", "0"]]
    assert (tmp_path / "out" / "bad.log").read_text().split("\n")[:-1] in (
        ["made bad", "and said"],
        ["and said", "made bad"],
    )
    assert "made other" in said


def test_all_that_succeed_are_a_success(make, tmp_path):
    assert run_all(["good"], tmp_path / "out", make) == 0
