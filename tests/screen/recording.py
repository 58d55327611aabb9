"""A recording of a terminal as one small SVG that moves, for README: readable on light and on dark pages, without
fonts, scripts or anything else from elsewhere.

A row of the screen is drawn once and shown for as long as it stood there, by an animation in CSS. Where nothing moves,
or a reader asked for less motion, the last screen is shown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.text import Text

WIDTH, HEIGHT, MARGIN = 8.4, 19.0, 16.0
"""Of a cell, and around the screen, in pixels. A cell's width is that of common monospaced fonts at 14 pixels."""

LIGHT = ("#f6f8fa", "#1f2328", "#59636e", "#cf222e", "#116329", "#7d4e00", "#0550ae", "#8250df", "#1b7c83")
DARK = ("#161b22", "#e6edf3", "#8b949e", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea")
"""Behind the text, the text, dim text, then red, green, yellow, blue, magenta and cyan."""

COLOURS = {1: "r", 2: "g", 3: "y", 4: "b", 5: "m", 6: "c"}
"""The classes of the colours that terminals number, bright ones eight higher."""


@dataclass(frozen=True)
class Frame:
    """The rows of a screen, with escape codes, and how many seconds it stands."""

    rows: tuple[str, ...]
    seconds: float


def svg(frames: list[Frame], columns: int, label: str) -> str:
    """Return the recording. ``label`` is what it is called for those who do not see it."""
    total = sum(frame.seconds for frame in frames)
    starts = [sum(frame.seconds for frame in frames[:n]) for n in range(len(frames) + 1)]
    screens = [[_spans(row) for row in _decoded(frame)] for frame in frames]
    height = max(map(len, screens))
    groups: dict[tuple[int, int], list[str]] = {}
    for row in range(height):
        for first, last, spans in _stretches([screen[row] if row < len(screen) else "" for screen in screens]):
            if spans:
                place = f"{MARGIN + (row + 0.75) * HEIGHT:.1f}"
                groups.setdefault((first, last), []).append(f'<text y="{place}">{spans}</text>')
    shown = sorted(groups)
    steps = [
        f"@keyframes k{n}{{0%{{visibility:{'hidden' if first else 'visible'}}}"
        f"{100 * starts[first] / total:.2f}%{{visibility:visible}}"
        f"{100 * starts[last] / total:.2f}%{{visibility:{'hidden' if last < len(frames) else 'visible'}}}}}"
        f".k{n}{{animation-name:k{n}{';visibility:hidden' if last < len(frames) else ''}}}"
        for n, (first, last) in enumerate(shown)
    ]
    size = f"{columns * WIDTH + 2 * MARGIN:.0f} {height * HEIGHT + 2 * MARGIN:.0f}"
    style = (
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'Liberation Mono',monospace;white-space:pre}"
        f".s{{font-weight:bold}}g{{animation:{total:.1f}s step-end infinite}}{_palette(LIGHT)}"
        f"@media(prefers-color-scheme:dark){{{_palette(DARK)}}}"
        f"{''.join(steps)}@media(prefers-reduced-motion){{g{{animation:none}}}}"
    )
    body = "\n".join(f'<g class="k{n}">{"".join(groups[when])}</g>' for n, when in enumerate(shown))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-label="{escape(label)}">\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" rx="8"/>\n{body}\n</svg>\n'
    )


def _palette(colours: tuple[str, ...]) -> str:
    back, text, dim, *rest = colours
    named = "".join(f".{name}{{fill:{colour}}}" for name, colour in zip(COLOURS.values(), rest, strict=True))
    return f"rect{{fill:{back}}}text{{fill:{text}}}{named}.d{{fill:{dim}}}"


def _decoded(frame: Frame) -> list[Text]:
    """Return the rows without escape codes. A style goes on in the next row until a code ends it."""
    return list(Text.from_ansi("\n".join(frame.rows)).split("\n", allow_blank=True))


def _stretches(rows: list[str]) -> Iterable[tuple[int, int, str]]:
    """Yield all that stood in one row, with the first frame that had it and the first that did not any more."""
    first = 0
    for n in range(1, len(rows) + 1):
        if n == len(rows) or rows[n] != rows[first]:
            yield first, n, rows[first]
            first = n


def _spans(row: Text) -> str:
    """Return each stretch of one style as text of SVG, at the place of its first cell."""
    parts, column = [], 0
    for segment in row.render(Console(color_system="truecolor"), end=""):
        if segment.text.strip():
            place = f"{MARGIN + column * WIDTH:.1f}"
            text = escape(segment.text.rstrip(), quote=False)
            parts.append(f'<tspan x="{place}"{_classes(segment.style)}>{text}</tspan>')
        column += cell_len(segment.text)
    return "".join(parts)


def _classes(style: Style | None) -> str:
    if style is None:
        return ""
    names = ["s"] if style.bold else []
    if style.dim:
        names.append("d")
    elif style.color is not None and style.color.number is not None and style.color.number % 8 in COLOURS:
        names.append(COLOURS[style.color.number % 8])
    return f' class="{" ".join(names)}"' if names else ""
