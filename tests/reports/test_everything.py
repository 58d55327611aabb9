"""Every target that README and docs name for their numbers is run, whatever becomes of the others."""

import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, all_pages
from tests.reports import everything
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


def test_every_slow_test_is_run_by_one_of_them():
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    slow = [str(path.relative_to(ROOT)) for path in files if "mark.slow" in path.read_text()]
    makefile = (ROOT / "Makefile").read_text()
    recipes = re.findall(r"^([\w-]+)(?: [\w-]+)*:(?!=).*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    made = "".join(recipe for name, recipe in recipes if name in {"download-kill-test", *TARGETS})
    paths = tuple(path for paths in re.findall("-m slow (.+)", made) for path in paths.split())
    assert len(slow) > 8
    assert [name for name in slow if not name.startswith(paths)] == []


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


def made(capfd):
    return [line.split()[-1] for line in capfd.readouterr().out.splitlines() if line.startswith("made ")]


def test_a_run_goes_on_where_an_earlier_one_ended(make, tmp_path, capfd):
    assert run_all(["good", "bad"], tmp_path, make, by=lambda: "source") == 1
    assert made(capfd) == ["good", "bad"]
    assert run_all(["good", "bad", "other"], tmp_path, make, by=lambda: "source") == 1
    assert made(capfd) == ["bad", "other"], "what failed runs again"


def test_targets_run_again_on_another_source_and_where_they_are_named(make, tmp_path, capfd):
    run_all(["good"], tmp_path, make, by=lambda: "source")
    run_all(["good"], tmp_path, make, by=lambda: "changed")
    run_all(["good"], tmp_path, make, by=lambda: "changed", again=True)
    assert made(capfd) == ["good"] * 3


def test_what_a_variable_narrowed_does_not_stand_for_the_whole(make, tmp_path, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PARTS", "20b")
        assert run_all(["good"], tmp_path, make, by=lambda: "source") == 0
    run_all(["good"], tmp_path, make, by=lambda: "source")
    run_all(["good"], tmp_path, make, by=lambda: "source")
    assert made(capfd) == ["good"] * 2


def test_the_source_of_a_result_is_what_it_rests_on(tmp_path, monkeypatch):
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    (tmp_path / "convert").mkdir()
    (tmp_path / "Makefile").write_text("all:")
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "convert" / "a.py").write_text("a = 1")
    (tmp_path / "README.md").write_text("text")
    first = everything.source()
    (tmp_path / "README.md").write_text("another text")
    (tmp_path / "convert" / "a.pyc").write_bytes(b"compiled")
    assert everything.source() == first
    (tmp_path / "convert" / "a.py").write_text("a = 2")
    assert everything.source() != first
