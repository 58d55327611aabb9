"""The pieces of work that programs are measured at, named as llama-bench names them: pp512, tg128@d8192.

Ids are random. Generation follows what a program draws, so that each step reads other experts. Knows no program.
"""

import random
from dataclasses import dataclass

from gptoss_mlx.bench.peer import Peer


def random_ids(seed: int, count: int, vocabulary: int) -> list[int]:
    """Return ``count`` ids, the same for the same seed."""
    return random.Random(seed).choices(range(vocabulary), k=count)


@dataclass(frozen=True)
class Prefill:
    """Read a prompt of ``length`` ids. Only the logits of the last are wanted."""

    length: int
    vocabulary: int
    rows = 1
    depth = 0

    @property
    def label(self) -> str:
        return f"pp{self.length}"

    @property
    def tokens(self) -> int:
        """Return the ids that a step reads or writes."""
        return self.length

    @property
    def positions(self) -> int:
        """Return the positions that a sequence takes."""
        return self.length

    def ready(self, peer: Peer) -> None:
        """Do what comes before a step and is not timed."""

    def step(self, peer: Peer) -> float:
        """Do the work, and return its seconds."""
        return peer.prefill([random_ids(self.length, self.length, self.vocabulary)])


@dataclass(frozen=True)
class Generation:
    """Write ``count`` tokens for each of ``rows`` sequences, ``depth`` tokens of which have been read. At depth 0 that
    is one, which every program needs to begin."""

    count: int
    vocabulary: int
    depth: int = 0
    rows: int = 1

    @property
    def label(self) -> str:
        at = f"@d{self.depth}" if self.depth else ""
        return f"tg{self.count}{at}" + (f" B{self.rows}" if self.rows > 1 else "")

    @property
    def tokens(self) -> int:
        return self.count * self.rows

    @property
    def positions(self) -> int:
        return max(self.depth, 1) + self.count + 1

    def ready(self, peer: Peer) -> None:
        rows = [random_ids(row, max(self.depth, 1), self.vocabulary) for row in range(self.rows)]
        peer.prefill(rows, timed=False)

    def step(self, peer: Peer) -> float:
        return peer.generate(self.count)


Work = Prefill | Generation
