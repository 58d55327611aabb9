"""The page of troubles quotes messages that the program has."""

import re

import pytest

from tests.docs.pages import DOCS, blocks
from tests.support.quoted_commands import ROOT, strings_of

INSERTED = r"\.\.\.|Address already in use|(?<=another )--port"
"""What the page writes where the program inserts something."""

QUOTED = [
    line.removeprefix("gptoss-mac: ")
    for block in blocks(DOCS / "troubleshooting.md")
    if block.language == "text"
    for line in block.code.splitlines()
]


@pytest.fixture(scope="module")
def written():
    """All strings of the program, what is inserted into them at run time as an ``x``."""
    files = [file for package in ("gptoss_mlx", "convert") for file in sorted((ROOT / package).rglob("*.py"))]
    return "\n".join(text for file in files for text in strings_of(file))


def test_there_are_messages():
    assert len(QUOTED) > 15


@pytest.mark.parametrize("message", QUOTED)
def test_each_fixed_part_of_a_message_is_written_in_the_program(message, written):
    for part in re.split(INSERTED, message):
        words = part.strip(" ;:,()")
        assert words in written, words
    assert len(re.findall(r"[a-z]{2,}", message)) > 4, "it says too little to be found"
