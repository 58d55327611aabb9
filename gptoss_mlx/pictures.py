"""Pictures of what ``inspection`` found, drawn by matplotlib, which extra ``plots`` installs.

They show on white and on black: a map has no background of its own, and greys of middling brightness; a text stands on
paper of its own.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.files import replaced_whole
from gptoss_mlx.inspection import ExpertUse, Seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = (".png", ".svg", ".pdf")
ELSEWHERE = "name another place with --out"
GREY = "#7f7f7f"
PAPER, INK, LIGHT_INK = "#fbfaf7", "#262626", "#ffffff"
MOST_BITS = 12.0
"""Surprise that is drawn in the strongest colour."""
COLUMNS, LINES = 96, 60
"""Characters of a line of a page of tokens, and lines of the longest page."""


def check_picture(path: Path) -> None:
    """Raise UsageError where no picture can be drawn: without matplotlib, or to a file of another kind. Raise
    StorageError where none can be written."""
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"{path}: pictures are written as {', '.join(FORMS)}; give a file that ends so")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib, which is not installed; run: pip install 'gptoss-mac[plots]'"
        ) from error
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        what = "is a folder" if path.is_dir() else f"{folder} is no folder in which you may write"
        raise StorageError(f"{path}: cannot be written ({what}); {ELSEWHERE}")


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
    _in_grey(figure)
    _save(figure, path)


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
    _save(figure, path)


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


def _in_grey(figure: "Figure") -> None:
    """Give text and lines a grey that shows on any ground, and leave the ground out."""
    from matplotlib.text import Text

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=GREY)
        for spine in axes.spines.values():
            spine.set_color(GREY)
    for text in figure.findobj(Text):
        text.set_color(GREY)


def _save(figure: "Figure", path: Path) -> None:
    """Write a figure whole or not at all, in a folder that is made if it is missing."""
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as partial:
            partial.write_bytes(data.getvalue())
        path.chmod(0o644)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {ELSEWHERE}") from error
