"""The leaves of a Markdown source: its paragraphs, headings, code and tables, with what stands before each line."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit
from markdown_it.token import Token

from gptoss_mlx.screen.parser import blocks

Kind = Literal["paragraph", "heading", "fence", "verbatim", "rule", "table", "nothing"]
KINDS: dict[str, Kind] = {
    "paragraph_open": "paragraph",
    "heading_open": "heading",
    "fence": "fence",
    "code_block": "verbatim",
    "html_block": "verbatim",
    "math_block": "verbatim",
    "hr": "rule",
    "table_open": "table",
}
QUOTE = "│ "
BULLET = "• "


@dataclass
class Leaf:
    """One block without blocks in it. ``start`` and ``end`` are its lines.

    ``text`` is a paragraph's or heading's source, or the lines of code. ``first`` stands before its first line, and
    ``rest`` before the others. ``rows`` are the cells of a table, the header first.
    """

    kind: Kind
    start: int
    end: int
    first: str
    rest: str
    quotes: str
    text: str = ""
    markup: str = ""
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class _Container:
    """A list item or a quotation. ``mark`` is what its first line still has to show."""

    mark: str
    rest: str
    start: int


def leaves(parser: MarkdownIt, source: str) -> tuple[list[Leaf], list[int]]:
    """Return the leaves of ``source``, and the first lines of the blocks and list items that stand in nothing else.

    Every line that is not blank is in a leaf, also what the parser leaves out.
    """
    lines = source.split("\n")
    tokens = blocks(parser, source)
    found = list(_leaves(tokens, lines))
    tops = [
        token.map[0]
        for token in tokens
        if token.map and (token.level == 0 or (token.level == 1 and token.type == "list_item_open"))
    ]
    begun = {token.map[0] for token in tokens if token.map and token.type == "list_item_open"}
    return list(_with_lost_lines(found, lines, begun)), sorted(set(tops))


def _leaves(tokens: list[Token], lines: list[str]) -> Iterator[Leaf]:
    inside: list[_Container] = []
    leaf: Leaf | None = None
    for token in tokens:
        if token.type == "blockquote_open":
            inside.append(_Container(QUOTE, QUOTE, _first_line(token)))
        elif token.type == "list_item_open":
            mark = f"{token.info}{token.markup} " if token.info else BULLET
            inside.append(_Container(mark, " " * len(mark), _first_line(token)))
        elif token.type in ("blockquote_close", "list_item_close"):
            if inside[-1].mark and inside[-1].rest != QUOTE:  # an empty item
                start = inside[-1].start
                yield _begun("nothing", start, start + 1, inside)
            inside.pop()
        elif kind := KINDS.get(token.type):
            assert token.map is not None
            leaf = _begun(kind, token.map[0], token.map[1], inside)
            leaf.markup = token.markup + token.info.rstrip()
            if kind in ("fence", "verbatim"):
                leaf.text = token.content
            if token.nesting == 0:
                yield leaf
                leaf = None
        elif leaf is not None:
            if token.type == "tr_open" and token.map:
                leaf.rows.append([])
                row = token.map[0]
            elif token.type == "inline":
                if leaf.kind == "table":
                    leaf.rows[-1].append(token.content)
                else:
                    leaf.text = token.content
            elif token.type == "tr_close":
                leaf.rows[-1] += _left_out(lines[row], len(leaf.rows[-1]))
            elif token.type in ("paragraph_close", "heading_close", "table_close"):
                yield leaf
                leaf = None


def _left_out(line: str, columns: int) -> list[str]:
    """Return the cells of a table's ``line`` that its header has no column for. The parser drops them."""
    cells = escapedSplit(line.lstrip("> ").strip())
    cells = cells[1:] if cells and not cells[0] else cells
    cells = cells[:-1] if cells and not cells[-1] else cells
    return [cell.strip() for cell in cells[columns:]]


def _first_line(token: Token) -> int:
    assert token.map is not None
    return token.map[0]


def _begun(kind: Kind, start: int, end: int, inside: list[_Container]) -> Leaf:
    """Return a leaf with what its containers write before it. A bullet is written once."""
    first = "".join(container.mark or container.rest for container in inside)
    rest = "".join(container.rest for container in inside)
    for container in inside:
        if container.rest != QUOTE:
            container.mark = ""
    return Leaf(kind, start, end, first, rest, QUOTE * sum(container.rest == QUOTE for container in inside))


def _with_lost_lines(found: list[Leaf], lines: list[str], begun: set[int]) -> Iterator[Leaf]:
    """Yield the leaves, and as text the lines between them that are neither blank nor in a leaf, nor in ``begun``, the
    first lines of list items."""
    at = 0
    for leaf in [*found, Leaf("nothing", len(lines), len(lines), "", "", "")]:
        lost = [lines[n] for n in range(at, leaf.start) if n not in begun and lines[n].strip(" \t>")]
        if lost:
            yield Leaf("verbatim", at, leaf.start, "", "", "", "\n".join(lost))
        if leaf.start < len(lines):
            yield leaf
        at = max(at, leaf.end)
