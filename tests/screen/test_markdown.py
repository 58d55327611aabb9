"""Every word of an answer is on the screen, in order, once, however it arrives."""

import json
import random
import re
from pathlib import Path

import pytest

from gptoss_mlx.screen.markdown import MarkdownStream
from gptoss_mlx.screen.style import Paint
from tests.screen.answers import answer
from tests.screen.terminal import lines_on
from tests.screen.words import added, addresses, missing

EXAMPLES = json.loads((Path(__file__).parent.parent / "data/commonmark-examples.json").read_text())["examples"]


def drawn(source, size=None, columns=80, paint=Paint()):  # noqa: B008 (frozen)
    """What is written for ``source`` that arrives in pieces of ``size``."""
    stream = MarkdownStream(lambda: columns)
    out = ""
    for at in range(0, len(source), size or len(source) or 1):
        stream.feed(source[at : at + size] if size else source)
        out += paint(stream.draw()) if size else ""
    return out + paint(stream.draw(last=True))


def plain(source, size=None, columns=80):
    return drawn(source, size, columns, Paint(attributes=False))


def test_every_word_of_every_example_of_the_specification_is_on_the_screen():
    assert len(EXAMPLES) == 652
    lost = {n: found for n, source in enumerate(EXAMPLES, 1) if (found := lost_of(source))}
    assert lost == {}


def lost_of(source):
    lines = lines_on(40, drawn(source, columns=40))
    text = "".join(lines)
    return missing(source, lines) or [address for address in addresses(source) if address not in text]


def test_an_example_that_arrives_in_pieces_looks_the_same():
    assert [n for n, source in enumerate(EXAMPLES, 1) if plain(source, 1 + n % 5) != plain(source)] == []


@pytest.mark.parametrize("seed", range(8))
def test_every_word_of_a_long_answer_is_on_the_screen_once(seed):
    source = answer(seed)
    written = drawn(source, random.Random(seed).choice((2, 3, 7)), columns=60)
    assert missing(source, lines_on(60, written)) is None
    wide = plain(source, 2, 100_000)  # where no table needs its columns' names again
    assert added(source, [wide]) <= 0, "nothing is shown twice"
    assert plain(source, 3, 60) == plain(source, None, 60)


@pytest.mark.parametrize(
    ("source", "screen"),
    [
        ("if a<b and c>d then", "if a<b and c>d then"),
        ("Map<String, List<Integer>>", "Map<String, List<Integer>>"),
        ("<details>\n<summary>M</summary>\n\nin\n</details>", "<details>\n<summary>M</summary>\n\nin\n</details>"),
        ("see [the page](https://e.org/a_b)", "see the page (https://e.org/a_b)"),
        ("see <https://e.org>", "see https://e.org"),
        ("see [a][1]\n\n[1]: https://e.org 'T'", "see [a][1]\n\n[1]: https://e.org 'T'"),
        ("![a *cat*](cat.png \"Tom\")", "a cat (cat.png \"Tom\")"),
        ("one\ntwo  \nthree\\\nfour", "one\ntwo\nthree\nfour"),
        ("one\n\n\n\ntwo", "one\n\ntwo"),
        ("$a_1 * b_2$ and \\(x_1 * y_1\\) and \\[z\\]", "$a_1 * b_2$ and \\(x_1 * y_1\\) and \\[z\\]"),
        ("it costs $5 and *that* is $6", "it costs $5 and that is $6"),
        ("\\[\na\n- b\n= c\n\\]", "\\[\na\n- b\n= c\n\\]"),
        ("1. one\n1. two\n   - three", "1. one\n1. two\n   • three"),
        ("> quoted\n> on", "│ quoted\n│ on"),
        ("| a | b |\n|---|---|\n| long | 2 | left out |", "a     b\n────  ─  ────────\nlong  2  left out"),
        ("- ```py\n  x = 1\n  ```", "• ```py\nx = 1\n```"),
        ("&lt;b&gt; &#27;[2J a&#13;b", "<b> �[2J ab"),
        ("a **b", "a **b"),
        ("*" * 70 + "a", "*" * 70 + "a"),
        (">" * 200 + " deep", None),
    ],
)  # fmt: skip
def test_what_stands_for_what(source, screen):
    for size in (None, 1, 4):
        shown = plain(source, size)
        assert shown == f"{screen}\n" if screen else "deep" in shown


MARKS = (
    r"* ** _ ` `` ``` ~~~ ~~ [ ] ( ) ![ < > </b> <b> $ $$ \\ \[ \] \( \) & &amp; &lt; | <!-- --> ' \" ! : # 1. - + ==="
)
BREAKS = ("", " ", " ", "\n", "\n\n", "\n> ", "\n- ", "\n1. ", "\n    ", "\n|---|---|\n", "  \n")


def test_each_word_is_shown_once_and_in_order_whatever_marks_stand_between_and_in_whatever_pieces():
    for seed in range(150):
        rng = random.Random(seed)
        words = [f"w{n}w" for n in range(rng.randint(1, 20))]
        source = "".join(rng.choice(BREAKS) + rng.choice(MARKS.split()) + word for word in words)
        shown = plain(source, rng.choice((1, 2, 5, None)), 10_000)
        found = re.findall(r"w\d+w", shown)
        names = {word for address in addresses(source) for word in re.findall(r"w\d+w", address)}
        assert [word for word in found if word not in names] == [word for word in words if word not in names], source


def test_a_paragraph_is_one_line_and_tabs_are_kept_so_that_both_can_be_copied():
    paragraph = "word " * 100 + "end"
    assert plain(paragraph, 3, columns=40) == f"{paragraph}\n"
    code = "```make\nall:\n\tcc -o a\t# two\n```"
    assert plain(code, 3, columns=40) == f"{code}\n"


def test_a_table_too_wide_for_the_screen_has_a_line_for_each_cell():
    source = "| name | meaning |\n|---|---|\n| first | a long text that does not fit |\n"
    assert plain(source, columns=30).splitlines() == [
        "name │ meaning", "", "name: first", "meaning: a long text that does not fit",
    ]  # fmt: skip


def test_text_is_shown_before_its_paragraph_ends_and_code_line_by_line():
    stream = MarkdownStream(lambda: 80)
    paint = Paint(attributes=False)
    stream.feed("One **two** three fou")
    assert paint(stream.draw()) == "One two three fo"
    stream.feed("r **fi")
    assert paint(stream.draw()) == "ur "[:1]
    stream.feed("ve** 日本語は")
    assert paint(stream.draw()).endswith("five 日本語")
    stream.feed("\n\n```\na = 1\nb =")
    assert paint(stream.draw()).endswith("```\na = 1\nb =")
