"""A table in columns where it fits on the screen, and one cell a line where it does not."""

from collections.abc import Iterator

from markdown_it import MarkdownIt
from rich.cells import cell_len

from gptoss_mlx.screen.inline import spans_of
from gptoss_mlx.screen.style import BOLD, DIM, Span, printable

Cell = list[Span]
GAP = "  "


def table_lines(parser: MarkdownIt, rows: list[list[str]], columns: int) -> Iterator[list[Span]]:
    """Yield the lines of a table, the first of whose ``rows`` is its header, for a screen with so many columns.

    A row may have more cells than the header. In a table that is too wide, each cell follows its column's name.
    """
    header = [_cell(parser, cell, BOLD) for cell in rows[0]]
    body = [[_cell(parser, cell) for cell in row] for row in rows[1:]]
    widths = [max(_width(row[n]) for row in [header, *body] if n < len(row)) for n in range(max(map(len, rows)))]
    if sum(widths) + len(GAP) * (len(widths) - 1) < columns:
        yield _aligned(header, widths)
        yield [Span(GAP.join("─" * width for width in widths), DIM)]
        for row in body:
            yield _aligned(row, widths)
        return
    yield [span for n, cell in enumerate(header) for span in ([Span(" │ ", DIM)] if n else []) + cell]
    for row in body:
        yield []
        for n, cell in enumerate(row):
            if cell:
                yield [*_name(header, n), *cell]


def _cell(parser: MarkdownIt, source: str, style: str = "") -> Cell:
    return [Span(span.text.replace("\n", " "), span.style) for span in spans_of(parser, source, style)]


def _name(header: list[Cell], column: int) -> Cell:
    """Return what stands before a cell on its own line."""
    return [Span(span.text, DIM) for span in [*header[column], Span(": ")]] if column < len(header) else []


def _width(cell: Cell) -> int:
    return sum(cell_len(printable(span.text)) for span in cell)


def _aligned(row: list[Cell], widths: list[int]) -> list[Span]:
    line: list[Span] = []
    for n, cell in enumerate(row):
        last = n + 1 == len(row)
        line += [*cell, Span("" if last else " " * (widths[n] - _width(cell)) + GAP)]
    return line
