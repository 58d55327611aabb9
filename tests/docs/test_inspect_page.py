"""What the page of inspect shows is what its commands print, up to the last digits, which are the backend's."""

import re
import shlex
from itertools import pairwise

import pytest

from gptoss_mlx import conversation
from tests.docs.examples import Day
from tests.docs.pages import DOCS, blocks
from tests.support.cli import run_cli

NUMBER = re.compile(r"\d+\.\d+|\d+%")
LEVELS = "▁▂▃▄▅▆▇█"
BLOCKS = blocks(DOCS / "inspect.md")
SHOWN = [
    (command.code, below.code)
    for command, below in pairwise(BLOCKS)
    if command.language == "sh" and below.language == "text" and "gptoss-mac" not in below.code
]


def figures(text: str) -> list[float]:
    """Return the fractions in a text, and its percentages as such."""
    return [float(one.rstrip("%")) / (100 if one.endswith("%") else 1) for one in NUMBER.findall(text)]


def words(text: str) -> list[str]:
    """Return what stands in a text beside its figures and bars."""
    return re.sub(f"[{LEVELS}▉▊▋▌▍▎▏]", "", NUMBER.sub("", text)).split()


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=["experts", "tokens"])
def test_a_command_prints_what_the_page_shows_below_it(command, shown, monkeypatch):
    monkeypatch.setattr(conversation, "Date", Day)
    code, out, err = run_cli(*shlex.split(command)[1:])
    assert (code, err) == (0, "")
    assert words(out) == words(shown)
    assert len(figures(shown)) >= 8
    assert figures(out) == pytest.approx(figures(shown), abs=0.02, rel=0.02)
    bars, wanted_bars = ([LEVELS.index(one) for one in text if one in LEVELS] for text in (out, shown))
    assert bars == pytest.approx(wanted_bars, abs=1)
