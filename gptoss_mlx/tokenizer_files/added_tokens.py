"""Find added tokens in text: the ``added_tokens`` of a ``tokenizer.json`` that are not special.

They are found where Hugging Face's tokenizers finds them. Knows no merges, and no ids but those of the added tokens.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, which is Rust's \\s. Python's \\s has four control characters more."""


@dataclass(frozen=True)
class AddedToken:
    """A text with an id of its own. The flags are those of Hugging Face's tokenizers.

    ``single_word`` tokens are not matched inside a word. ``lstrip`` and ``rstrip`` also consume the blanks before and
    after the token. ``normalized`` tokens are searched for after all others, in the text between those.
    """

    text: str
    id: int
    normalized: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class AddedTokens:
    """Splits text at added tokens. A match of ``markers`` prevents other matches inside it, but stays in the text."""

    tokens: tuple[AddedToken, ...]
    markers: tuple[str, ...] = ()

    def split(self, text: str) -> Iterator[str | int]:
        """Yield the parts of ``text`` in order: an id for each added token, and each non-empty text between them."""
        pieces: list[str | int] = [text]
        for normalized in (False, True):
            named = {token.text: token for token in self.tokens if token.normalized == normalized}
            if named:
                pattern = self._patterns[normalized]
                pieces = [
                    part
                    for piece in pieces
                    for part in (_cut(piece, pattern, named) if isinstance(piece, str) else (piece,))
                ]
        yield from (piece for piece in pieces if piece != "")

    @cached_property
    def _patterns(self) -> dict[bool, re.Pattern[str]]:
        texts = {
            normalized: [t.text for t in self.tokens if t.normalized == normalized] for normalized in (False, True)
        }
        return {False: _longest_of([*texts[False], *self.markers]), True: _longest_of(texts[True])}


def _longest_of(texts: Collection[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _cut(text: str, pattern: re.Pattern[str], named: dict[str, AddedToken]) -> Iterable[str | int]:
    done = 0
    for found in pattern.finditer(text):
        token = named.get(found[0])
        start, end = found.span()
        if token is None or (token.single_word and _in_word(text, start, end)):
            continue
        if token.lstrip:
            start = max(done, len(text[:start].rstrip(_SPACES)))
        if token.rstrip:
            end = len(text) - len(text[end:].lstrip(_SPACES))
        yield text[done:start]
        if start < end:  # the token before may have consumed all of it as blanks
            yield token.id
        done = end
    yield text[done:]


def _in_word(text: str, start: int, end: int) -> bool:
    return (start > 0 and _is_word(text[start - 1])) or (end < len(text) and _is_word(text[end]))


def _is_word(char: str) -> bool:
    """Return whether Rust's \\w matches: letters, marks, decimal digits, joiners and connecting punctuation."""
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in "\u200c\u200d"
