"""The page of what was measured says with what to measure it again."""

import re

import pytest

from tests.docs.pages import DOCS

PAGE = (DOCS / "measured.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what |")]


def test_there_are_rows_of_every_kind():
    assert re.findall("^## (.*)$", PAGE, re.MULTILINE) == [
        "Measured",
        "Emulated",
        "Recorded without a GPU",
        "Counted by another compiler",
        "Predicted",
        "Not run",
    ]
    assert len(ROWS) > 70


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_the_command_that_reproduces_it(row):
    assert re.search(r"`(make|gptoss-mac) [^`]+`", row) or "| not reproduced by a target |" in row or "as above" in row
    assert row.count("|") == 4, "it has three cells"
