"""Pictures of what ``inspection`` found, drawn by matplotlib, which extra ``plots`` installs.

They show on white and on black: a map has no background of its own, and greys of middling brightness; a text stands on
paper of its own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptoss_mlx.figures import GREY, in_grey, save
from gptoss_mlx.inspection import ExpertUse, Seen

PAPER, INK, LIGHT_INK = "#fbfaf7", "#262626", "#ffffff"
MOST_BITS = 12.0
"""Surprise that is drawn in the strongest colour."""
COLUMNS, LINES = 96, 60
"""Characters of a line of a page of tokens, and lines of the longest page."""


def draw_experts(use: ExpertUse, title: str, path: Path) -> None:
    """Draw each expert's load by layer, as a multiple of an even load, and beside it the routers' entropy. Raises
    StorageError."""
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers, experts = use.counts.shape
    figure = Figure(figsize=(9, 1.8 + 0.17 * max(layers, 8)), layout="constrained", dpi=150)
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    multiples = use.load * experts
    norm = TwoSlopeNorm(1, 0, max(2.0, float(multiples.max())))
    image = heat.imshow(multiples, aspect="auto", cmap="coolwarm", norm=norm, interpolation="nearest")
    heat.set(xlabel="expert", ylabel="layer", title=title)
    heat.xaxis.set_major_locator(MaxNLocator(integer=True))
    heat.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=heat, label="load, 1 is even", location="left", shrink=0.9)
    bars.barh(np.arange(layers), use.choice_bits, color="#5b8fb9")
    bars.axvline(np.log2(experts), color=GREY, linestyle="dotted")
    bars.set(xlabel=f"bits, {np.log2(experts):.1f} at most", title="routing entropy", xlim=(0, np.log2(experts) * 1.05))
    in_grey(figure)
    save(figure, path)


def draw_tokens(tokens: Sequence[Seen], title: str, path: Path) -> None:
    """Draw a text, each token on a ground as strong as its surprise. A text of more than a page is cut, which is said.
    Raises StorageError."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    placed, lines, left = _placed(tokens)
    figure = Figure(figsize=(0.098 * COLUMNS + 0.3, 0.24 * lines + 1.0), dpi=150, facecolor=PAPER)
    page = figure.add_axes((0.015, 0.02, 0.97, 0.96))
    page.set(xlim=(0, COLUMNS), ylim=(lines + 2.6, -1.6))
    page.axis("off")
    colours = colormaps["YlOrRd"]
    for row, column, text, surprise in placed:
        strength = 0.0 if surprise is None else min(1.0, surprise / MOST_BITS)
        ink = LIGHT_INK if strength > 2 / 3 else INK
        if strength > 1 / 24:
            page.add_patch(Rectangle((column, row - 0.5), len(text), 1, color=colours(strength), lw=0))
        for offset, letter in enumerate(text):
            at = (column + offset + 0.5, row)
            page.text(*at, letter, family="monospace", fontsize=9, ha="center", va="center", color=ink)
    page.text(0, -1.1, title, fontsize=10, va="center", color=INK)
    for step in range(COLUMNS // 3):
        page.add_patch(Rectangle((step, lines + 0.9), 1, 0.5, color=colours(3 * step / COLUMNS), lw=0))
    said = f"0 to {MOST_BITS:.0f} bits of surprise" + (f"; {left:,} more tokens are not drawn" if left else "")
    page.text(COLUMNS // 3 + 1, lines + 1.15, said, fontsize=8, va="center", color=INK)
    save(figure, path)


def _placed(tokens: Sequence[Seen]) -> tuple[list[tuple[int, int, str, float | None]], int, int]:
    """Return (line, column, text, surprise) of pieces of tokens, the number of lines, and how many tokens are left."""
    placed: list[tuple[int, int, str, float | None]] = []
    row = column = 0
    for number, token in enumerate(tokens):
        text = "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in token.text)
        if column and column + len(text) > COLUMNS:
            row, column = row + 1, 0
        if row >= LINES:
            return placed, row, len(tokens) - number
        for at in range(0, len(text), COLUMNS):
            piece = text[at : at + COLUMNS]
            placed.append((row, column, piece, token.surprise))
            column += len(piece)
            if at + COLUMNS < len(text):
                row, column = row + 1, 0
        if token.text.endswith("\n"):
            row, column = row + 1, 0
    return placed, row + 1, 0
