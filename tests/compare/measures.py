"""What ``make compare`` lets every program do: read prompts, and decode one token of one or of many sequences."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gptoss_mlx.bench.harness import Timing, take_turns
from gptoss_mlx.bench.peer import Peer
from gptoss_mlx.bench.works import Prefill, random_ids

VOCABULARY = 201088
LIMIT = 90.0
"""Seconds after which a piece of work is measured no further, however few turns were calm."""
LOGITS_AFTER = 32
"""Ids read before logits are compared. Reading 128 takes mlx-lm minutes."""


@dataclass
class Decoding:
    """Decode one token of each of ``rows`` sequences, after ``before`` ids. All programs read the same ids."""

    rows: int
    before: int = 128
    _steps: dict[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return "decode" if self.rows == 1 else f"decode {self.rows} sequences"

    def prepare(self, peer: Peer) -> None:
        peer.prefill([random_ids(row, self.before, VOCABULARY) for row in range(self.rows)])

    def step(self, peer: Peer) -> float:
        """Give every program the same ids at the same step, so that all choose the same experts."""
        number = self._steps[peer.name] = self._steps.get(peer.name, 0) + 1
        return peer.decode(random_ids(1000 + number, self.rows, VOCABULARY))


@dataclass(frozen=True)
class Turns:
    """How many turns a piece of work is measured in, after those that only warm up."""

    work: Decoding | Prefill
    count: int
    warm_up: int = 1


def measured(turns: Turns, peers: list[Peer]) -> Timing:
    """Return the timing of all programs at one piece of work."""
    work = turns.work
    if isinstance(work, Decoding):
        for peer in peers:
            work.prepare(peer)
    return take_turns(peers, work.step, turns=turns.count, warm_up=turns.warm_up, limit=LIMIT)


def last_logits(peer: Peer, scratch: Path) -> np.ndarray:
    """Return the logits after LOGITS_AFTER ids."""
    peer.prefill([random_ids(0, LOGITS_AFTER, VOCABULARY)], scratch)
    return np.fromfile(scratch, np.float32)
