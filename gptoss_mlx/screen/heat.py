"""Numbers on a terminal: a map of loads, and a text coloured by how surprising its tokens are.

Colours are of middling brightness, so that they show on dark and on light. Without colours a load is a bar's height.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len

from gptoss_mlx.screen.style import DIM, Span

BARS = "▁▂▃▄▅▆▇█"
LOADS = ((1 / 4, 25), (1 / 2, 67), (4 / 5, 109), (5 / 4, 245), (2, 179), (4, 172), (np.inf, 160))
"""An expert's load as a multiple of an even one, up to the number, and its colour of the 256: blue for idle ones, grey
for an even load, orange and red for busy ones."""

SURPRISES = ((1, None), (3, 136), (6, 166), (np.inf, 160))
"""Bits of surprise, up to the number, and their colour."""


def load_map(load: np.ndarray, columns: int, *, colours: bool) -> Iterator[list[Span]]:
    """Yield a line for each row of ``load`` [layers, E], each row's sum 1, at most ``columns`` wide. Neighbours share a
    cell where there is no room for each: it shows the mean of them."""
    experts = load.shape[1]
    together = -(-experts // columns)
    wide = 2 if 2 * experts <= columns else 1
    for row in load:
        cells = [float(row[at : at + together].mean()) * experts for at in range(0, experts, together)]
        yield [cell_of(multiple, wide, colours=colours) for multiple in cells]


def cell_of(multiple: float, wide: int, *, colours: bool) -> Span:
    """Return the cell of a load that is so many times an even one."""
    if colours:
        return Span("█" * wide, colour(next(shade for most, shade in LOADS if multiple < most)))
    height = min(len(BARS) - 1, int(multiple * len(BARS) / 4))  # four times an even load is a full bar
    return Span(BARS[height] * wide if multiple else " " * wide)


def load_legend(*, colours: bool) -> list[Span]:
    """Return what the map's cells mean."""
    if not colours:
        low, even, high = BARS[0], BARS[2], BARS[-1]
        return [Span(f"load: blank none, {low} below half of an even one, {even} even, {high} 3.5 times or more", DIM)]
    names = ("below 1/4", "to 1/2", "to 4/5", "even", "to 2", "to 4", "more")
    spans = [Span("load, as a multiple of an even one: ", DIM)]
    for (_, shade), name in zip(LOADS, names, strict=True):
        spans += [Span("██", colour(shade)), Span(f" {name}  ", DIM)]
    return spans


def surprise_style(bits: float | None) -> str:
    """Return the style of a token with so much surprise."""
    shade = None if bits is None else next(shade for most, shade in SURPRISES if bits < most)
    return "" if shade is None else colour(shade)


def surprise_legend() -> list[Span]:
    """Return what the colours of tokens mean."""
    spans = [Span("bits of surprise: ", DIM), Span("below 1  ")]
    for (_, shade), name in zip(SURPRISES[1:], ("1 to 3", "3 to 6", "more"), strict=True):
        spans.append(Span(f"{name}  ", colour(shade)))
    return spans


def surprise_bar(bits: float, most: float, width: int) -> str:
    """Return a bar of at most ``width`` cells, full at ``most`` bits."""
    eighths = round(min(1.0, bits / most) * width * 8)
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def colour(shade: int | None) -> str:
    """Return the style of one of the 256 colours, by SGR 38."""
    return f"38;5;{shade}"


def wrapped(spans: Sequence[Span], columns: int) -> Iterator[list[Span]]:
    """Yield lines of spans, each of which stays whole. A line end inside a span's text ends the line."""
    line: list[Span] = []
    used = 0
    for span in spans:
        for number, piece in enumerate(span.text.split("\n")):
            if number or used + cell_len(piece) > columns:
                yield line
                line, used = [], 0
            if piece:
                line.append(Span(piece, span.style))
                used += cell_len(piece)
    yield line
