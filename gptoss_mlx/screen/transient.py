"""Rows at the bottom of the screen that come and go: what is drawn now replaces what was drawn before."""

from rich.cells import cell_len, set_cell_size

from gptoss_mlx.screen.style import DIM, Paint, Span, printable


class Transient:
    """The rows on the screen now. They begin in the first column, and the cursor stands at the end of the last one."""

    def __init__(self, paint: Paint) -> None:
        self._paint = paint
        self._rows: list[str] = []

    def draw(self, rows: list[str], columns: int) -> str:
        """Return what replaces the present rows by ``rows``, each cut to fit in ``columns``."""
        fitting = [_cut(printable(row).expandtabs(), columns - 1) for row in rows]
        if fitting == self._rows:
            return ""
        before = self.erase(columns)
        self._rows = fitting
        return before + "\n".join(self._paint([Span(row, DIM)]) for row in fitting)

    def erase(self, columns: int) -> str:
        """Return what removes the rows. A terminal made narrower has wrapped them, which terminals in use do."""
        if not self._rows:
            return ""
        height = sum(max(1, -(-cell_len(row) // max(1, columns))) for row in self._rows)
        self._rows = []
        return (f"\x1b[{height - 1}A" if height > 1 else "") + "\r\x1b[J"


def _cut(row: str, cells: int) -> str:
    return set_cell_size(row, max(0, cells)) if cell_len(row) > cells else row
