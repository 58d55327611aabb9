"""A terminal emulator whose lines are the program's: rows that the terminal wrapped are one line again."""

import pyte


class WrappingScreen(pyte.Screen):
    """Remembers which rows go on in the next one. It has room for all that is ever written, so nothing scrolls."""

    def __init__(self, columns, rows):
        self.wrapped = set()
        super().__init__(columns, rows)
        self.set_mode(pyte.modes.LNM)

    def draw(self, data):
        for char in data:
            before = self.cursor.y
            super().draw(char)
            if self.cursor.y > before:
                self.wrapped.add(before)

    def erase_in_line(self, how=0, private=False):
        super().erase_in_line(how, private)
        self.wrapped.discard(self.cursor.y)

    def joined_lines(self):
        """Return the lines, without trailing spaces."""
        joined, line = [], ""
        for y in range(self.cursor.y + 1):
            row = self.buffer[y]
            line += "".join(row[x].data for x in range(self.columns))
            if y not in self.wrapped:
                joined.append(line.rstrip())
                line = ""
        return joined


def lines_on(columns, text):
    """Return the lines that a terminal of so many columns shows of ``text``."""
    rows = len(text) // columns + text.count("\n") + 2
    screen = WrappingScreen(columns, rows)
    pyte.Stream(screen).feed(text)
    return screen.joined_lines()
