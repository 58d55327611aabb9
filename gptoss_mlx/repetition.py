"""When a reply only repeats itself: it has written the same few tokens over and over. Knows ids, and no text."""

from collections import deque

LONGEST = 64
"""Tokens of the longest span whose repetition is noticed."""
MOST = 200
"""Tokens that repeat a span exactly, after which a reply is ended. A chat's tables and lists repeat far less."""


class Repetition:
    """Watches the ids of one reply. ``found`` says whether MOST ids in a row were equal to those up to LONGEST before
    them."""

    def __init__(self) -> None:
        self.found = False
        self._last: deque[int] = deque(maxlen=LONGEST)  # the latest one first
        self._runs = [0] * LONGEST  # how many ids in a row were equal to those 1, 2, ... before them

    def feed(self, id: int) -> bool:
        """Take one more id, and return ``found``."""
        runs = [run + 1 if id == before else 0 for run, before in zip(self._runs, self._last, strict=False)]
        self._runs = runs + [0] * (LONGEST - len(runs))
        self._last.appendleft(id)
        self.found = self.found or max(runs, default=0) >= MOST
        return self.found
