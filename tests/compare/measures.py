"""What ``make compare`` lets every program do: read prompts, and decode one token of one or of many sequences."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gptoss_mlx.bench.harness import Timing, take_turns
from gptoss_mlx.bench.peer import Peer

VOCABULARY = 201088
LIMIT = 90.0
"""Seconds after which a piece of work is measured no further, however few turns were calm."""
LOGITS_AFTER = 32
"""Ids read before logits are compared. Reading 128 takes mlx-lm minutes."""


def random_ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


@dataclass
class Decoding:
    """Decode one token of each of ``rows`` sequences, after ``before`` ids."""

    rows: int
    turns: int
    before: int = 128
    warm_up: int = 2
    _steps: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "decode" if self.rows == 1 else f"decode {self.rows} sequences"

    def prepare(self, peer: Peer) -> None:
        peer.prefill([random_ids(row, self.before) for row in range(self.rows)])

    def step(self, peer: Peer) -> float:
        """Give every program the same ids at the same step, so that all choose the same experts."""
        number = self._steps[peer.name] = self._steps.get(peer.name, 0) + 1
        return peer.decode(random_ids(1000 + number, self.rows))


@dataclass
class Prefill:
    """Read a prompt of ``length`` ids. Only the logits of the last are wanted."""

    length: int
    turns: int
    warm_up: int = 1

    @property
    def name(self) -> str:
        return f"prefill {self.length}"

    def prepare(self, peer: Peer) -> None:
        pass

    def step(self, peer: Peer) -> float:
        return peer.prefill([random_ids(self.length, self.length)])


def measured(work: Decoding | Prefill, peers: list[Peer]) -> Timing:
    """Return the timing of all programs at one piece of work."""
    return take_turns(peers, work.step, turns=work.turns, warm_up=work.warm_up, limit=LIMIT, prepare=work.prepare)


def last_logits(peer: Peer, scratch: Path) -> np.ndarray:
    """Return the logits after LOGITS_AFTER ids."""
    peer.prefill([random_ids(0, LOGITS_AFTER)], scratch)
    return np.fromfile(scratch, np.float32)
