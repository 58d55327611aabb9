"""Markdown that is shown while it is written, each part once and for good.

What is shown is never taken back, so nothing on the screen has to be erased or drawn again. A part waits as long as
what follows can change its meaning: an open ``**`` until it is closed, a table until it ends. A paragraph is one line,
which the terminal wraps. The module knows no terminal but its width.
"""

import re
from collections.abc import Callable, Iterator

from gptoss_mlx.screen.inline import settled, spans_of
from gptoss_mlx.screen.leaves import Leaf, leaves
from gptoss_mlx.screen.parser import make_parser
from gptoss_mlx.screen.style import BOLD, DIM, UNDERLINE, Span, joined
from gptoss_mlx.screen.table import table_lines

_UNDECIDED = re.compile(r"[\W\d_]*\Z")
"""A line without a letter yet may become a list item, a rule, a heading's underline or a table."""
_WHOLE_LINES = re.compile(r"(?:[\s>*+-]|\d{1,9}[.)])*(?:```|~~~|[<|#]|\\\[|\$\$)")
"""Lines that are read when they are complete: fences, HTML, tables, headings, mathematics."""
_DELIMITERS = re.compile(r"[\s>|:-]*\Z")
RULE = "─" * 20
LONGEST_WAIT = 1000
"""Characters of a paragraph that wait for the end of what is open. After them the paragraph is shown as it stands."""


class MarkdownStream:
    """Markdown that grows. ``draw`` returns what it shows now beyond what was drawn before."""

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._parser = make_parser()
        self._without_tables = make_parser(tables=False)
        self._source = ""  # from the last block that has not been shown whole
        self._shown_leaves = 0  # of _source
        self._shown_text = 0  # characters of the text of the leaf after them
        self._began_leaf = False
        self._as_text = False  # the leaf began as a paragraph, so it cannot become a table
        self._unstyled = False  # the rest of the leaf is shown as it stands
        self._line_open = False
        self._quotes = ""  # before the line above
        self._blank = True  # the line above is blank, or there is none

    @property
    def held_rows(self) -> int:
        """Return how many rows of a table wait for its end."""
        return self._source.count("\n") if self._source.lstrip().startswith("|") and not self._began_leaf else 0

    def feed(self, text: str) -> None:
        """Add ``text``, which has no control characters but line ends and tabs."""
        self._source += text

    def draw(self, *, last: bool = False) -> list[Span]:
        """Return the spans that are final now, and with ``last`` all that is left and a line end."""
        spans = list(self._draw(last))
        return spans + self.end_line() if last else spans

    def end_line(self) -> list[Span]:
        """Return the spans that end the line that was drawn last, if it has not ended. More of it must not follow."""
        ended = [Span("\n")] if self._line_open else []
        self._line_open = False
        return ended

    def _draw(self, last: bool) -> Iterator[Span]:
        source = self._source if last else self._decided()
        if not source.strip():
            return
        found, tops = leaves(self._without_tables if self._as_text else self._parser, source)
        if self._began_leaf and self._shown_leaves < len(found) and self._is_table_now(found[self._shown_leaves]):
            self._as_text = True
            found, tops = leaves(self._without_tables, source)
        lines = source.split("\n")
        while self._shown_leaves < len(found):
            leaf = found[self._shown_leaves]
            final = last or self._shown_leaves + 1 < len(found) or _closed(leaf, lines)
            yield from self._leaf(leaf, lines, final)
            if not final:
                break
            self._shown_leaves += 1
            self._shown_text = 0
            self._began_leaf = self._unstyled = False
        self._forget(found, tops, lines)

    def _is_table_now(self, leaf: Leaf) -> bool:
        """Return whether what was shown as text is a table's header by what follows it."""
        return leaf.kind == "table" or (leaf.kind == "paragraph" and len(leaf.text) < self._shown_text)

    def _decided(self) -> str:
        """Return the source up to the last line whose kind of block is known."""
        whole, end, partial = self._source.rpartition("\n")
        if not _UNDECIDED.match(partial) and not _WHOLE_LINES.match(partial):
            return self._source
        before, between, line = whole.rpartition("\n")
        above = before.rpartition("\n")[2]
        if "|" in line and _DELIMITERS.match(partial) and not ("|" in above and _DELIMITERS.match(line)):
            return before + between  # the line may be a table's header
        return whole + end

    def _leaf(self, leaf: Leaf, lines: list[str], final: bool) -> Iterator[Span]:
        """Yield what is new of a leaf."""
        match leaf.kind:
            case "paragraph":
                rest = leaf.text[self._shown_text :]
                now = len(rest) if final or self._unstyled else settled(rest)
                if len(rest) - now > LONGEST_WAIT and not final:
                    self._unstyled = True
                    now = len(rest)
                yield from self._text(leaf, lines, rest[:now], "")
                self._shown_text += now
            case "heading":
                if final:
                    style = joined(BOLD, UNDERLINE if leaf.markup in ("#", "=") else "")
                    yield from self._text(leaf, lines, leaf.text[self._shown_text :], style)
                    if "#" not in leaf.markup:  # underlined, and so it stays
                        yield Span("\n" + leaf.rest + lines[leaf.end - 1].strip(" \t>"), DIM)
            case "fence" | "verbatim":
                yield from self._verbatim(leaf, lines, final)
            case "table":
                if final:
                    yield from self._begin(leaf, lines)
                    for n, line in enumerate(table_lines(self._parser, leaf.rows, self._columns() - len(leaf.rest))):
                        yield from ([Span("\n"), Span(leaf.rest, DIM)] if n else [])
                        yield from line
            case "rule":
                yield from self._begin(leaf, lines)
                yield Span(RULE, DIM)
            case "nothing":
                yield from self._begin(leaf, lines)

    def _text(self, leaf: Leaf, lines: list[str], source: str, style: str) -> Iterator[Span]:
        if not source:
            return
        yield from self._begin(leaf, lines)
        for span in [Span(source)] if self._unstyled else spans_of(self._parser, source, style):
            before, *more = span.text.split("\n")
            yield Span(before, span.style)
            for line in more:
                yield Span("\n")
                yield Span(leaf.rest, DIM)
                yield Span(line, span.style)

    def _verbatim(self, leaf: Leaf, lines: list[str], final: bool) -> Iterator[Span]:
        """Yield lines as they stand. Code is not indented by the lists around it, so that it can be copied."""
        fence = leaf.kind == "fence"
        margin = leaf.quotes if fence else leaf.rest
        text = (f"{leaf.markup}\n{leaf.text}" if fence else leaf.text).removesuffix("\n")
        new = text[self._shown_text :]
        yield from self._begin(leaf, lines)
        for n, line in enumerate(new.split("\n")):
            if n:
                yield Span("\n")
                yield Span(margin, DIM)
            yield Span(line, DIM if fence and not n and not self._shown_text else "")
        self._shown_text = max(self._shown_text, len(text))  # its last line may wait now
        if final and fence and _closed(leaf, lines):
            yield Span("\n")
            yield Span(margin + leaf.markup[: _fence_length(leaf.markup)], DIM)

    def _begin(self, leaf: Leaf, lines: list[str]) -> Iterator[Span]:
        """Yield what stands before a leaf: the end of the line above, a blank line if the source has one, a bullet."""
        if self._began_leaf:
            return
        self._began_leaf = True
        if self._line_open:
            yield Span("\n")
        blank = leaf.start > 0 and not lines[leaf.start - 1].strip(" \t>")
        if not self._blank and blank:
            yield Span(min(leaf.quotes, self._quotes).rstrip() + "\n", DIM)
        self._line_open, self._blank, self._quotes = True, False, leaf.quotes
        yield Span(leaf.first, DIM)

    def _forget(self, found: list[Leaf], tops: list[int], lines: list[str]) -> None:
        """Drop the source of what has been shown, which no later line can change."""
        if not found:
            return
        unshown = found[min(self._shown_leaves, len(found) - 1)]
        cut = max((top for top in tops if top <= unshown.start), default=0)
        while cut and not lines[cut - 1].strip(" \t>"):
            cut -= 1
        if cut:
            self._shown_leaves -= sum(leaf.start < cut for leaf in found)
            self._source = self._source[sum(len(line) + 1 for line in lines[:cut]) :]
        if not (self._shown_leaves or self._began_leaf):
            self._as_text = False


def _fence_length(markup: str) -> int:
    return len(markup) - len(markup.lstrip(markup[0]))


def _closed(leaf: Leaf, lines: list[str]) -> bool:
    """Return whether no further line can belong to ``leaf``, the last one."""
    if leaf.kind == "fence":
        return leaf.end - leaf.start - 1 > len(leaf.text.splitlines())
    if leaf.kind in ("rule", "heading"):
        return True
    return leaf.kind != "verbatim" and leaf.end < len(lines) - 1 and not lines[leaf.end].strip(" \t>")
