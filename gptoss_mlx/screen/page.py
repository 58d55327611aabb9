"""A reply on a terminal: the thought dim and folded, then the answer, then a line about both.

Text goes in as it arrives, and ``draw`` returns what to write to the terminal. Nothing is written here.
"""

import textwrap
import time
from collections.abc import Callable
from typing import Literal

from rich.cells import cell_len

from gptoss_mlx.screen.markdown import MarkdownStream
from gptoss_mlx.screen.style import DIM, Paint, Span, printable
from gptoss_mlx.screen.transient import Transient

Thinking = Literal["show", "fold", "hide"]
"""How a thought is shown: whole, as its last lines until the answer begins, or only that there is one."""

FOLDED_ROWS = 4
FOLDED_COLUMNS = 76
"""The widest row of a folded thought, so that a window may be made narrower without wrapping it."""


class Page:
    """What of one reply is on the screen. ``columns`` returns the terminal's width, which may change."""

    def __init__(
        self, paint: Paint, columns: Callable[[], int], thinking: Thinking, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._paint = paint
        self._columns = columns
        self._thinking = thinking
        self._clock = clock
        self._transient = Transient(paint)
        self._rows: list[str] = []  # what the transient rows are to be
        self._out = ""
        self._answer: MarkdownStream | None = None
        self._thought: str | None = None
        self._thought_began = 0.0
        self._thought_shown = 0

    def reading(self, read: int, total: int) -> None:
        """Say how many of the prompt's tokens are read, until all are."""
        self._rows = [f"read {read:,} of {total:,} tokens"] if read < total else []

    def thought(self, text: str) -> None:
        """Add to the thought."""
        if self._thought is None:
            self._end_section()
            self._thought = ""
            self._thought_began = self._clock()
            if self._thinking == "show":
                self._print(f"thinking {'─' * 12}")
        self._thought += text

    def answer(self, text: str) -> None:
        """Add to the answer."""
        if self._answer is None:
            after_thought = self._thought is not None
            self._end_section()
            if after_thought and self._thinking == "show":
                self._print(f"answer {'─' * 14}")
            self._answer = MarkdownStream(self._columns)
        self._answer.feed(printable(text))

    def line(self, text: str, style: str = DIM) -> None:
        """End what is under way and print a line."""
        self._end_section()
        self._print(text, style)

    def draw(self, *, last: bool = False) -> str:
        """Return what to write to the terminal now, and with ``last`` all that is left."""
        if last:
            self._end_section()
        elif self._answer is not None:
            self._draw_answer(self._answer)
        elif self._thought is not None:
            self._draw_thought(self._thought)
        columns = self._columns()
        if self._out:
            self._out = self._transient.erase(columns) + self._out
        out, self._out = self._out + self._transient.draw(self._rows, columns), ""
        return out

    def _draw_answer(self, answer: MarkdownStream) -> None:
        self._out += self._paint(answer.draw())
        self._rows = []
        if rows := answer.held_rows:
            self._out += self._paint(answer.end_line())
            self._rows = [f"a table, {rows} lines so far"]

    def _draw_thought(self, thought: str) -> None:
        if self._thinking == "show":
            self._rows = []
            self._out += self._paint([Span(thought[self._thought_shown :], DIM)])
            self._thought_shown = len(thought)
            return
        self._rows = [f"thinking, {self._length(thought)}"]
        if self._thinking == "fold":
            self._rows += _last_rows(thought, min(self._columns() - 3, FOLDED_COLUMNS))

    def _end_section(self) -> None:
        """Print the rest of the thought or answer under way."""
        self._rows = []
        if self._answer is not None:
            self._out += self._paint(self._answer.draw(last=True))
        elif self._thought is not None and self._thinking == "show":
            self._draw_thought(self._thought if self._thought.endswith("\n") else f"{self._thought}\n")
        elif self._thought is not None and self._thinking == "fold":
            self._print(f"thought, {self._length(self._thought)}")
        self._answer = self._thought = None
        self._thought_shown = 0

    def _length(self, thought: str) -> str:
        return f"{len(thought):,} characters in {self._clock() - self._thought_began:.1f} s"

    def _print(self, text: str, style: str = DIM) -> None:
        self._out += self._paint([Span(text, style), Span("\n")])


def _last_rows(thought: str, columns: int) -> list[str]:
    """Return the last rows of a thought, of at most ``columns`` each, wrapped at words."""
    end = printable(thought[-FOLDED_ROWS * columns :]).strip()
    width = columns if cell_len(end) == len(end) else columns // 2  # some characters are two columns wide
    rows = [row for line in end.splitlines() for row in textwrap.wrap(line, max(1, width))]
    return [f"  {row}" for row in rows[-FOLDED_ROWS:]]
