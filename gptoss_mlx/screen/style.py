"""Pieces of text with a style, and the control sequences that show them.

Only attributes and one colour are used, none of them on a background of its own, so that dark and light terminals show
all of it. The numbers are those of ECMA-48's SGR.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

BOLD = "1"
DIM = "2"
ITALIC = "3"
UNDERLINE = "4"
STRUCK = "9"
CODE = "35"
"""Magenta, the one of the eight colours that is legible on black and on white."""

CALL = "36"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return ``text`` without control characters other than line ends and tabs, because they can steer a terminal."""
    return _CONTROL.sub("", text)


@dataclass(frozen=True)
class Span:
    """Text in one style: SGR parameters joined by ``;``, or none."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Paint:
    """How spans become text for a terminal: with ``attributes`` such as bold, and with ``colours``."""

    attributes: bool = True
    colours: bool = True

    def __call__(self, spans: Iterable[Span]) -> str:
        """Return the spans as text. No span can steer the terminal: an entity may stand for a control character."""
        return "".join(self._painted(printable(span.text), span.style) for span in spans)

    def _painted(self, text: str, style: str) -> str:
        numbers = [n for n in style.split(";") if n and self.attributes and (self.colours or len(n) == 1)]
        return f"\x1b[{';'.join(numbers)}m{text}\x1b[0m" if numbers and text else text


def joined(*styles: str) -> str:
    """Return the styles as one."""
    return ";".join(dict.fromkeys(number for style in styles for number in style.split(";") if number))
