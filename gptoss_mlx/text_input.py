"""Bytes from outside to text: the one door through which prompts come, and the one place that decides an encoding.

An encoding is decided once for an input, by its beginning: a byte order mark, or the zero bytes that UTF-16 and UTF-32
have beside every ASCII character; otherwise it is UTF-8. What then cannot be decoded is refused, never guessed at.
Half a surrogate pair is no text, and does not get past here. Knows bytes; nothing of files, terminals or grammars.
"""

import codecs
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gptoss_mlx.errors import UsageError

LINE_END = re.compile(r"\r\n|\r|\n")

_MARKS = (  # UTF-32's first: UTF-16's little-endian mark is the beginning of it
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Encoding:
    """``name`` is Python's; ``mark`` the bytes in front that are no text; ``why`` it was chosen, for messages."""

    name: str
    mark: bytes
    why: str

    def __str__(self) -> str:
        return self.name.upper()


def encoding_of(start: bytes) -> Encoding:
    """The encoding of an input that begins with ``start``: the more of it the surer, four bytes at least or all."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return Encoding(name, mark, "as its byte order mark says")
    if guessed := _by_zero_bytes(start[:_SAMPLE]):
        return Encoding(guessed, b"", "as its zero bytes say")
    return Encoding("utf-8", b"", "tried as neither a byte order mark nor zero bytes mean UTF-16 or UTF-32")


def _by_zero_bytes(start: bytes) -> str | None:
    """None where zero bytes are few, or follow no pattern: UTF-8 may hold some too."""
    places = [start[place::4].count(0) for place in range(4)]
    long_units = len(start) // 4
    short_units = len(start) // 2
    for name, empty, filled in (("utf-32-le", (2, 3), 0), ("utf-32-be", (0, 1), 3)):
        # Three of four: characters beyond the basic plane use one of the two.
        if (
            long_units
            and all(places[place] * 4 >= long_units * 3 for place in empty)
            and places[filled] * 4 < long_units
        ):
            return name
    even = places[0] + places[2]
    odd = places[1] + places[3]
    for name, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        # One of eight: letters of other scripts have no zero byte, the spaces and line ends between them do.
        if many >= 2 and many * 8 >= short_units and many >= 4 * few:
            return name
    return None


class Decoder:
    """Text of one input, whose bytes come in pieces. ``name`` says in errors what it is, such as a file's name.

    ``marking`` gives what cannot be decoded as surrogates instead of refusing it: for an input whose lines stand for
    themselves, and whose reader then refuses the line (``first_fault``).
    """

    def __init__(self, name: str, encoding: Encoding, *, marking: bool = False) -> None:
        self.encoding = encoding
        self._name = name
        self._marking = marking
        marks = "surrogateescape" if encoding.name == "utf-8" else "surrogatepass"
        self._decoder = codecs.getincrementaldecoder(encoding.name)(marks if marking else "strict")
        self._skip = len(encoding.mark)
        self._bytes = 0
        self._lines = 1
        self._ends_with_cr = False

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The text that has come with ``data``.

        Raises UsageError naming the first bad byte, its line and what was tried.
        """
        held = len(self._decoder.getstate()[0])
        begin = self._bytes - held
        self._bytes += len(data)
        skipped = data[: self._skip]
        self._skip -= len(skipped)
        begin += len(skipped)
        try:
            text = self._decoder.decode(data[len(skipped) :], last)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(self.encoding.name, "surrogatepass")
            if self._marking and last and "truncated" in error.reason:
                return f"{before}\udcff"
            self._count(before)
            raise UsageError(
                f"{self._name}: byte 0x{error.object[error.start]:02x} at offset {begin + error.start}, on line "
                f"{self._lines}, is not {self.encoding} ({error.reason}), {self.encoding.why}; give it in UTF-8"
            ) from error
        self._count(text)
        return text

    def _count(self, text: str) -> None:
        if not text:
            return
        self._lines += len(LINE_END.findall(text)) - (self._ends_with_cr and text[0] == "\n")
        self._ends_with_cr = text[-1] == "\r"


def decoded(data: bytes, name: str) -> str:
    """All of an input. Raises UsageError as ``Decoder.feed`` does."""
    return Decoder(name, encoding_of(data)).feed(data, last=True)


def argument(value: str, name: str) -> str:
    """A command line's argument, whatever the locale made of its bytes. Raises UsageError as ``Decoder.feed`` does."""
    try:
        return decoded(os.fsencode(value), name)
    except UnicodeEncodeError:  # no argument of a process, then, but a string made in this one
        return decoded(value.encode("utf-8", "surrogatepass"), name)


class LineReader:
    """Lines as they arrive, without their ends: LF, CRLF or CR. What arrives together is decoded before any of it is
    given out. ``read`` gives up to so many bytes, none at the end.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read = read
        self._name = name
        self._decoder: Decoder | None = None
        self._text = ""
        self._ended = self._after_cr = False

    def readline(self) -> str | None:
        """None at the end. Raises UsageError as ``Decoder.feed`` does."""
        pieces: list[str] = []
        while self._text or self._fill():
            if self._after_cr and self._text[0] == "\n":
                self._text = self._text[1:]
            elif end := LINE_END.search(self._text):
                pieces.append(self._text[: end.start()])
                self._text = self._text[end.end() :]
                self._after_cr = end[0] == "\r"
                return "".join(pieces)
            else:
                pieces.append(self._text)
                self._text = ""
            self._after_cr = False
        return "".join(pieces) if pieces else None

    def _fill(self) -> bool:
        """Wait for more text; False when there is none."""
        while not self._text and not self._ended:
            data = self._read(_SAMPLE)
            if self._decoder is None:
                while data and len(data) < 4 and b"\n" not in data and (more := self._read(_SAMPLE)):
                    data += more
                self._decoder = Decoder(self._name, encoding_of(data))
            self._ended = not data
            self._text = self._decoder.feed(data, last=self._ended)
        return bool(self._text)


def first_fault(text: str) -> int | None:
    """Where ``text`` holds half a surrogate pair; None for text that is whole."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def without_surrogates(text: str) -> str:
    """Halves of a surrogate pair that stand together become their character, single ones U+FFFD."""
    if first_fault(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_without_surrogates(value: Any) -> Any:
    """A parsed JSON value, ``without_surrogates`` in any of its strings and names."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [json_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {without_surrogates(name): json_without_surrogates(one) for name, one in value.items()}
    return value
