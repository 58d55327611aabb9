"""Every short sequence of token classes in a reply: seven markers and five kinds of text.

Imports nothing of ours, so that the oracle can use it. A piece is text, a list that contains one marker, or the bytes
of an incomplete character.
"""

from collections.abc import Callable, Iterator
from itertools import product

from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START

ClassPiece = str | bytes | list[str]

CHANNEL_NAMES = ("final", "analysis", "commentary")
ROLES = ("assistant", "user", "tool")
TEXTS = ("Hello there", "x", " to=functions.f", '{"a": 1}')
CLASSES: tuple[tuple[ClassPiece, ...], ...] = (
    *((START,), (MESSAGE,), (CHANNEL,), (CONSTRAIN,), (END,), (CALL,), (RETURN,)),
    *(CHANNEL_NAMES, ROLES, TEXTS, (" ",), (b"\xf0\x9f",)),
)


def sequences(longest: int) -> Iterator[list[ClassPiece]]:
    """Yield all sequences of up to ``longest`` classes. Members of a class alternate, so all combine."""
    number = 0
    for length in range(1, longest + 1):
        for classes in product(range(len(CLASSES)), repeat=length):
            yield [CLASSES[c][(number + at) % len(CLASSES[c])] for at, c in enumerate(classes)]
            number += 1


def encode(
    pieces: list[ClassPiece],
    special: dict[str, int],
    text: Callable[[str], list[int]],
    raw: Callable[[bytes], list[int]],
) -> list[int]:
    """Return the ids of pieces, ``raw`` for bytes. Texts are encoded one by one, because a model writes them so."""
    found = []
    for piece in pieces:
        if isinstance(piece, bytes):
            found += raw(piece)
        else:
            found += text(piece) if isinstance(piece, str) else [special[piece[0]]]
    return found
