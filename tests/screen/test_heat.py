"""A map of loads fits its screen, and its cells say which experts are busy."""

import numpy as np
import pytest

from gptoss_mlx.screen.heat import LOADS, SURPRISES, colour, load_map, surprise_bar, surprise_style, wrapped
from gptoss_mlx.screen.style import Span

EVEN = np.full((3, 32), 1 / 32)


def text_of(line):
    return "".join(span.text for span in line)


@pytest.mark.parametrize(("columns", "cells", "width"), [(64, 32, 2), (63, 32, 1), (32, 32, 1), (20, 16, 1)])
def test_each_expert_has_a_cell_where_there_is_room_and_shares_one_where_not(columns, cells, width):
    for line in load_map(EVEN, columns, colours=True):
        assert [len(span.text) for span in line] == [width] * cells
        assert {span.style for span in line} == {colour(245)}


def test_a_busy_expert_is_red_and_an_idle_one_blue():
    load = np.array([[0.0, 0.01, 0.24, 0.75]])
    (line,) = load_map(load, 80, colours=True)
    assert [span.style for span in line] == [colour(LOADS[0][1]), colour(LOADS[0][1]), colour(245), colour(LOADS[5][1])]


def test_without_colours_a_load_is_a_height():
    (line,) = load_map(np.array([[0.0, 0.01, 0.24, 0.75]]), 80, colours=False)
    assert text_of(line) == "  ▁▁▂▂▇▇"
    assert not any(span.style for span in line)


def test_a_shared_cell_shows_the_mean():
    (line,) = load_map(np.array([[0.5, 0.0, 0.25, 0.25]]), 2, colours=False)
    assert text_of(line) == "▃▃"


def test_surprise_has_a_colour_from_one_bit_on():
    assert [surprise_style(bits) for bits in (None, 0.0, 0.9, 1.0, 5.0, 40.0)] == [
        *[""] * 3,
        *(colour(shade) for _, shade in SURPRISES[1:]),
    ]


def test_a_bar_grows_with_surprise_and_stays_in_its_columns():
    assert [surprise_bar(bits, 8, 4) for bits in (0, 0.25, 2, 7.75, 8, 50)] == ["", "▏", "█", "███▉", "████", "████"]


def test_tokens_are_wrapped_whole_and_line_ends_end_lines():
    spans = [Span("one "), Span("two "), Span("three\nfour"), Span("\n"), Span("five")]
    assert [text_of(line) for line in wrapped(spans, 9)] == ["one two ", "three", "four", "five"]
    assert [text_of(line) for line in wrapped([Span("漢字"), Span("漢字"), Span("ab")], 8)] == ["漢字漢字", "ab"]
