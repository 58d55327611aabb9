"""Every short sequence of what a reply can be made of: seven markers and five sorts of text.

Imports nothing of ours, so that the oracle reads the same ones. A piece is text, a marker in a list of its own, or
bytes that are no whole character.
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
    """All of up to ``longest`` classes. Members of a class take turns, so that each meets the others."""
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
    """Ids; ``raw`` gives those of bytes. Texts are not joined first: a model writes them as tokens of their own."""
    found = []
    for piece in pieces:
        if isinstance(piece, bytes):
            found += raw(piece)
        else:
            found += text(piece) if isinstance(piece, str) else [special[piece[0]]]
    return found
