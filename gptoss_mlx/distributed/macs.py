"""What several Macs would hold of a model and how fast they would decode: a plan and a prediction. Runs nothing.

A token passes through one Mac after the other, so its time is the sum of theirs and of the passages between them. A
second Mac adds memory, not speed. Each Mac's time is ``prediction.speed``'s, and has its error.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.distributed.plan import Room, Share, part_of, shares
from gptoss_mlx.errors import UsageError, quoted
from gptoss_mlx.machine import MARGIN
from gptoss_mlx.prediction.published_speeds import BANDWIDTH
from gptoss_mlx.prediction.speed import predict

PASSAGE = {"Thunderbolt, TCP": 0.475e-3, "Wi-Fi, TCP": 15e-3, "Thunderbolt 5, RDMA": 25.5e-6}
"""Seconds that a hidden state takes from one Mac to the next: half the slowest round trip over a Thunderbolt bridge and
half the slowest average over Wi-Fi in exo's issue 2295, and the latency of 4 KB over jaccl in the README of
omar-karray/mlx-jaccl-cluster. Nobody has measured this program's."""

BIG = 48
"""From so many GB on macOS lets the GPU have three quarters of the memory instead of two thirds."""

FORM = 'give chips and memory, such as "M4 Pro 24GB, M2 16GB"'


@dataclass(frozen=True)
class Mac:
    """A Mac, by its chip such as "M4 Pro" and its memory in GiB."""

    chip: str
    gigabytes: int

    def __str__(self) -> str:
        return f"{self.chip} {self.gigabytes}GB"

    @property
    def budget(self) -> int:
        """Return the bytes that a model may take, as macOS limits the GPU by default, less this program's margin."""
        share = 3 / 4 if self.gigabytes >= BIG else 2 / 3
        return int(self.gigabytes * 2**30 * share * (1 - MARGIN))


@dataclass(frozen=True)
class Joined:
    """A model on several Macs. ``seconds`` are what a token takes on each, None where experts are read from disk."""

    macs: tuple[Mac, ...]
    shares: tuple[Share, ...]
    seconds: tuple[float, ...] | None

    def rate(self, passage: float) -> float | None:
        """Return the predicted tokens a second of one sequence, where each passage between Macs takes so many
        seconds."""
        return None if self.seconds is None else 1 / (sum(self.seconds) + passage * len(self.macs))


def read_macs(text: str) -> list[Mac]:
    """Return the two or more Macs that a list names. Raises UsageError."""
    macs = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(?:apple )?(m\d+(?: (?:pro|max|ultra))?)\s+(\d{1,4})\s*gb\s*", part.lower())
        chip = "" if found is None else found[1].title()
        if found is None or chip not in BANDWIDTH or not int(found[2]):
            raise UsageError(f"{quoted(part.strip(), 40)} is no Mac that is known here; {FORM}")
        macs.append(Mac(chip, int(found[2])))
    if len(macs) < 2:
        raise UsageError(f"{quoted(text.strip(), 40)} is one Mac, which `gptoss-mac doctor` plans for there; {FORM}")
    return macs


def join_macs(config: ModelConfig, dense: str, macs: Sequence[Mac], context: int | None = None) -> Joined:
    """Return how the Macs would hold a model together. Raises what ``plan.shares`` raises."""
    rooms = [Room(f"rank {rank} ({mac})", mac.budget, "metal") for rank, mac in enumerate(macs)]
    found = shares(config, dense, rooms, context=context, dtype=mx.bfloat16)
    seconds = None
    if all(share.plan.slots is None for share in found):
        seconds = tuple(
            predict(part_of(config, share.layers, ends=rank == 0), dense, mac.chip).seconds
            for rank, (share, mac) in enumerate(zip(found, macs, strict=True))
        )
    return Joined(tuple(macs), tuple(found), seconds)
