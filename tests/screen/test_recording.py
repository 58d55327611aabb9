"""The recording of a terminal: each row is there for as long as it stood, and the picture needs nothing but itself."""

import re
from pathlib import Path
from xml.etree import ElementTree

from tests.screen.recording import DARK, LIGHT, Frame, svg

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "terminal.svg"
SVG = "{http://www.w3.org/2000/svg}"


def shown_from_to(text: str) -> dict[str, tuple[float, float]]:
    """Return when each row is shown, in hundredths of the whole."""
    tree = ElementTree.fromstring(text)
    style = tree.find(f"{SVG}style").text
    found = {}
    for group in tree.findall(f"{SVG}g"):
        name = group.get("class")
        times = re.search(rf"@keyframes {name}{{0%{{[^}}]*}}([\d.]+)%{{[^}}]*}}([\d.]+)%", style)
        for row in group:
            found["".join(row.itertext())] = tuple(map(float, times.groups()))
    return found


def test_a_row_is_shown_while_it_stood():
    frames = [Frame(("$ ",), 1.0), Frame(("$ a <b>",), 1.0), Frame(("$ a <b>", "\x1b[2mdim", "more\x1b[0m"), 2.0)]
    text = svg(frames, 20, "a & b")
    assert shown_from_to(text) == {"$": (0, 25), "$ a <b>": (25, 100), "dim": (50, 100), "more": (50, 100)}
    tree = ElementTree.fromstring(text)
    assert tree.get("aria-label") == "a & b"
    dim = {span.text for span in tree.iter(f"{SVG}tspan") if span.get("class") == "d"}
    assert dim == {"dim", "more"}, "a style goes on in the next row"


def test_a_row_that_is_gone_at_the_end_is_hidden_where_nothing_moves():
    style = ElementTree.fromstring(svg([Frame(("a",), 1.0), Frame(("b",), 1.0)], 9, "")).find(f"{SVG}style").text
    assert re.findall(r"\.(k\d){animation-name:k\d(;visibility:hidden)?}", style) == [
        ("k0", ";visibility:hidden"),
        ("k1", ""),
    ]


def test_the_recording_is_small_whole_and_loads_nothing():
    text = PICTURE.read_text()
    rows = shown_from_to(text)
    assert "347 + 58 = 405." in rows
    assert "> What is 500 - 137?" in rows
    assert len(text) < 20_000
    assert re.findall(r"https?://[^\"]*|url\(|<script|<image", text) == ["http://www.w3.org/2000/svg"]
    assert all(colour in text for colour in (LIGHT[0], DARK[0])), "it is drawn for light pages and for dark ones"
