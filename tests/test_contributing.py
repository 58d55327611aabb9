"""CONTRIBUTING.md names make targets, files and functions that exist, and all targets that people call."""

import re

from convert import sources
from tests.support import make_targets
from tests.support.page_parts import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_target_says_what_it_does_and_is_listed():
    described = make_targets.described()
    assert set(described) == make_targets.phony()
    assert [target for target, text in described.items() if not text] == []
    listed = set(re.findall(r"^\| `make ([\w.-]+)` \|", PAGE, re.MULTILINE))
    assert listed == set(described)


def test_every_make_target_that_is_named_exists():
    named = {
        target for words in re.findall(r"\bmake ((?:[a-z][\w-]*)(?: [a-z][\w-]*)*)`", PAGE) for target in words.split()
    }
    assert named <= make_targets.phony()
    assert "test" in named


def test_files_and_folders_that_are_named_exist():
    named = re.findall(r"`((?:gptoss_mlx|convert|tests|metal_kernels|docs)(?:/[\w/.-]+)?)`|\]\(([\w/.-]+)", PAGE)
    assert len(named) > 10
    assert [path for pair in named if not (ROOT / (path := "".join(pair))).exists()] == []


def test_each_layout_of_weights_has_the_two_functions():
    assert all(callable(module.holds) and callable(module.weights) for module in sources.LAYOUTS.values())
