"""Every target that the page of measurements names is run, whatever becomes of the others."""

import re
import sys

import pytest

from tests.docs.pages import DOCS, ROOT
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


def test_every_target_behind_a_number_is_run():
    page = (DOCS / "measured.md").read_text().partition("## Not run")[0]
    quoted = re.findall(r"`make ([^`]+)`|^make (.+)$", page, re.MULTILINE)
    named = {target for pair in quoted for target in "".join(pair).split()}
    assert len(named) > 20
    assert named <= set(TARGETS)


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
