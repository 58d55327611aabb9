"""Decode input bytes to text. All prompts come through this module, and only this module chooses an encoding.

It chooses the encoding of an input once, from the beginning: by a byte order mark, or by the zero bytes that UTF-16 and
UTF-32 have in every ASCII character, else UTF-8. Bytes that cannot be decoded then are refused. Lone surrogates are
refused or replaced, because they are not text. The module knows bytes. It knows nothing of files or terminals.
"""

import codecs
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gptoss_mlx.errors import UsageError

LINE_END = re.compile(r"\r\n|\r|\n")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""UTF-32 comes first, because its little-endian mark begins with that of UTF-16."""

_SAMPLE = 1 << 16
"""Bytes in which zero bytes are counted, and that are read at a time."""


@dataclass(frozen=True)
class Encoding:
    """An encoding by its Python ``name``, its byte order ``mark``, if any, and the reason it was chosen (``why``)."""

    name: str
    mark: bytes
    why: str

    def __str__(self) -> str:
        return self.name.upper()


def encoding_of(start: bytes) -> Encoding:
    """Return the encoding of an input from its ``start``, at least four bytes or all. More make it more certain."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return Encoding(name, mark, "as its byte order mark says")
    if guessed := _by_zero_bytes(start[:_SAMPLE]):
        return Encoding(guessed, b"", "as its zero bytes say")
    return Encoding("utf-8", b"", "tried because neither a byte order mark nor zero bytes mean UTF-16 or UTF-32")


def _by_zero_bytes(start: bytes) -> str | None:
    """Return None if zero bytes are few or irregular, because UTF-8 may contain some too."""
    places = [start[place::4].count(0) for place in range(4)]
    long_units = len(start) // 4
    short_units = len(start) // 2
    for name, empty, filled in (("utf-32-le", (2, 3), 0), ("utf-32-be", (0, 1), 3)):
        # Three quarters are enough, because characters beyond the basic plane use one of the two bytes.
        mostly_empty = all(places[place] * 4 >= long_units * 3 for place in empty)
        if long_units and mostly_empty and places[filled] * 4 < long_units:
            return name
    even = places[0] + places[2]
    odd = places[1] + places[3]
    for name, many, few in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        # An eighth is enough. Letters of other scripts have no zero byte, but spaces and line ends have one.
        if many >= 2 and many * 8 >= short_units and many >= 4 * few:
            return name
    return None


class Decoder:
    """Decodes one input that arrives in pieces. ``name`` stands for the input in errors.

    With ``marking`` bytes that cannot be decoded become surrogates instead of an error. The reader of an input with
    independent lines can then refuse a single line, with ``first_fault``.
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
        """Return the text that ``data`` completes. Raises UsageError with the first bad byte and its line."""
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
    """Return the text of a whole input. Raises UsageError as ``Decoder.feed`` does."""
    return Decoder(name, encoding_of(data)).feed(data, last=True)


def argument(value: str, name: str) -> str:
    """Return the text of a command line's argument in any locale. Raises UsageError as ``Decoder.feed`` does."""
    try:
        return decoded(os.fsencode(value), name)
    except UnicodeEncodeError:  # the string was made in this process, not by the locale
        return decoded(value.encode("utf-8", "surrogatepass"), name)


class LineReader:
    """Reads lines that end with LF, CRLF or CR, as soon as they arrive.

    ``read(size)`` returns up to ``size`` bytes, and none at the end. All bytes of one such call are decoded before any
    of their lines is returned.
    """

    def __init__(self, read: Callable[[int], bytes], name: str) -> None:
        self._read = read
        self._name = name
        self._decoder: Decoder | None = None
        self._text = ""
        self._ended = self._after_cr = False

    def readline(self) -> str | None:
        """Return the next line without its end, or None at the end. Raises UsageError as ``Decoder.feed`` does."""
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
        """Wait for more text. Return False at the end of the input."""
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
    """Return the index of the first surrogate in ``text``, or None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def without_surrogates(text: str) -> str:
    """Return ``text`` with surrogate pairs joined to their character and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def json_without_surrogates(value: Any) -> Any:
    """Return a parsed JSON value with ``without_surrogates`` applied to all its strings and names."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [json_without_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {without_surrogates(name): json_without_surrogates(one) for name, one in value.items()}
    return value
