"""The few shapes that the documentation's pictures are made of. Knows no picture.

A picture lies on a panel of its own, whose colours follow the reader's light or dark setting. So it can be read on any
page. Lengths are pixels at a width of WIDTH.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH = 760
TITLE, TEXT, SMALL = 15, 14, 13
"""Sizes of letters. None is smaller."""
LINE = 19
MEAN_WIDTH = {"text": 0.53, "strong": 0.58, "code": 0.61}
"""Width of a letter as a part of its size, on the large side, so that a text that is taken to fit does."""

STYLE = """
  .panel { fill: #fbfbfa; stroke: #d5d5d0 }
  .box { fill: #eaeff6; stroke: #8499b3 }
  .warm { fill: #f8ead4; stroke: #bf9355 }
  .green { fill: #dff0e2; stroke: #6fa67c }
  .violet { fill: #ebe4f5; stroke: #9a84bd }
  .grey { fill: #e9e9e6; stroke: #a3a39d }
  .red { fill: #f6e0dd; stroke: #c1817a }
  .line { fill: none; stroke: #5b6672; stroke-width: 1.6 }
  .dashed { stroke-dasharray: 5 4 }
  .head { fill: #5b6672 }
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
  .strong { font-weight: 600 }
  .code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .soft { fill: #505a65 }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #171a1f; stroke: #363c45 }
    .box { fill: #23303f; stroke: #5f7894 }
    .warm { fill: #40331f; stroke: #97763f }
    .green { fill: #203626; stroke: #568362 }
    .violet { fill: #322a42; stroke: #7a679c }
    .grey { fill: #2c3036; stroke: #656b73 }
    .red { fill: #45292a; stroke: #a06561 }
    .line { stroke: #98a4b0 }
    .head { fill: #98a4b0 }
    text { fill: #e8eaed }
    .soft { fill: #aeb7c0 }
  }
"""


@dataclass
class Picture:
    """A picture of WIDTH by ``height``. ``title`` is read to those who do not see it."""

    title: str
    height: int
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, *, size: int = TEXT, style: str = "", anchor: str = "start") -> None:
        """Write a line whose letters stand on ``y``. ``style`` is of "strong", "code" and "soft"."""
        kept = f' class="{style}"' if style else ""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}"{kept}{at}>{escape(text)}</text>')

    def rectangle(self, x: float, y: float, width: float, height: float, style: str, radius: int = 6) -> None:
        """Draw a filled rectangle."""
        corner = f' rx="{radius}"' if radius else ""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{corner} class="{style}"/>')

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        title: str,
        lines: Sequence[str] = (),
        *,
        style: str = "box",
    ) -> None:
        """Draw a box with a title and lines below it, centred. A line that begins with a backtick is code. Raises
        ValueError for a text that does not fit."""
        self.rectangle(x, y, width, height, style)
        rows = [(title, TITLE, "strong"), *((line.strip("`"), SMALL, _kind(line)) for line in lines)]
        if LINE * len(rows) + 6 > height:
            raise ValueError(f"{title!r}: {len(rows)} lines do not fit into a height of {height}")
        top = y + (height - LINE * len(rows)) / 2
        for number, (line, size, kind) in enumerate(rows):
            if text_width(line, size, kind) > width - 10:
                raise ValueError(f"{line!r} does not fit into a width of {width}")
            letters = {"strong": "strong", "code": "code soft", "text": "soft"}[kind]
            self.text(x + width / 2, top + LINE * number + 14, line, size=size, style=letters, anchor="middle")

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw a line through ``points`` that ends in a head. Its last part runs along an axis."""
        (x0, y0), (x1, y1) = points[-2:]
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        ends = [*points[:-1], (x1 - 7 * dx, y1 - 7 * dy)]
        self.line(*ends, dashed=dashed)
        back = (x1 - 9 * dx, y1 - 9 * dy)
        sides = [(back[0] - 4.5 * dy, back[1] - 4.5 * dx), (back[0] + 4.5 * dy, back[1] + 4.5 * dx)]
        corners = " ".join(f"{x:g},{y:g}" for x, y in ((x1, y1), *sides))
        self.parts.append(f'<polygon points="{corners}" class="head"/>')

    def line(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw a line through ``points``."""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{way}" class="line{" dashed" if dashed else ""}"/>')

    def svg(self) -> str:
        """Return the picture's file."""
        size = f'width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}"'
        panel = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="8" class="panel"/>'
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style>",
                panel,
                *self.parts,
                "</svg>\n",
            )
        )


def text_width(text: str, size: int, kind: str = "text") -> float:
    """Return about how wide a line is, rather too wide. ``kind`` is one of MEAN_WIDTH."""
    return len(text) * size * MEAN_WIDTH[kind]


def _kind(line: str) -> str:
    return "code" if line.startswith("`") else "text"
