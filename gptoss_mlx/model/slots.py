"""Which experts are in which slots: every layer keeps those that were chosen last, and takes others for what is absent.

Knows ids, and counts what choices cost. Knows no memory, no files and no logits, so that a recorded run can be played
again with other numbers of slots.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass
class Tally:
    """What steps, or chunks of prompts, have cost since it was made.

    ``wanted`` counts the experts that layers chose, each once a step, ``misses`` those that were read, also in vain
    after a layer that missed, ``evictions`` those that had to go. ``repeats`` counts parts of steps that were run
    again, ``readbacks`` how often the host waited for a choice. ``nbytes`` were read from disk. Nothing is counted
    while every expert is in a slot.
    """

    wanted: int = 0
    misses: int = 0
    evictions: int = 0
    repeats: int = 0
    readbacks: int = 0
    nbytes: int = 0

    @property
    def hit(self) -> float:
        """Return the share of the chosen experts that were there, 1 if none was chosen. What was read in vain counts
        as missed, so it may be negative."""
        return 1 - self.misses / self.wanted if self.wanted else 1.0


class Place(NamedTuple):
    """A slot of a layer that is to hold an expert."""

    layer: int
    id: int
    slot: int


Fill = Callable[[list[Place]], None]
"""Brings experts into slots, whatever was in them. If it raises, what was in them counts as absent."""

WORTH = 0.5
"""How much of what a layer behind a missed one chooses must prove right for it to be read ahead. Else most of what is
read is read in vain, and drives out what is needed. The bundled model's layers keep 0.96, 0.94 and 0.87 of their
choices. With random weights in 20b's shape it is 0.88 in the next layer, 0.52 in the eleventh and 0.18 in the last."""

MEMORY = 32
"""Choices that are remembered to know how much proves right."""

_NO_GUESS = (-1, np.empty((0, 0), np.int64))
"""A layer, and what those from it on chose behind a missed one."""


class SlotTable:
    """The slots of all layers. ``complete`` is whether every expert is in one. Nothing can miss then."""

    def __init__(self, layers: int, experts: int, slots: int) -> None:
        self.slots = slots
        self.complete = False
        self._where = np.full((layers, experts), -1)  # the slot of each expert
        self._owner = np.full((layers, slots), -1)  # the expert in each slot
        self._used = np.zeros((layers, experts), np.int64)
        self._now = 0
        self._right = np.ones(layers)  # how much of a choice is right, a layer behind a missed one, two layers, ...
        self._guess = _NO_GUESS

    def present(self, layer: int) -> np.ndarray:
        """Return for each expert of a layer whether it is in a slot."""
        return self._where[layer] >= 0

    def first_miss(self, first: int, chosen: np.ndarray, tally: Tally, fill: Fill) -> int | None:
        """Take what a step chose in each layer from ``first`` on, [layers, T, K], and fetch what was absent. Return the
        first layer that missed an expert, or None.

        Layers behind it chose by wrong numbers. What is absent of their choices is read too, but only so far behind as
        choices have proved right.
        """
        tally.readbacks += 1
        if not len(chosen):
            return None
        chosen = chosen.reshape(len(chosen), -1)
        self._now += 1
        numbers = np.arange(first, first + len(chosen))
        absent = (self._where[numbers[:, None], chosen] < 0).any(axis=1)
        missed = int(absent.argmax()) if absent.any() else None
        settled = chosen if missed is None else chosen[: missed + 1]
        tally.wanted += sum(len(set(ids)) for ids in settled.tolist())
        self._learn(first, settled)
        if missed is None:
            self._used[numbers[:, None], chosen] = self._now
            return None
        self._guess = (first + missed + 1, chosen[missed + 1 :])
        near = slice(0, missed + 1 + self.reach)
        self._used[numbers[near, None], chosen[near]] = self._now
        wanted = zip(numbers[near].tolist(), chosen[near], absent[near], strict=True)
        self.fetch([(layer, np.unique(ids).tolist()) for layer, ids, some in wanted if some], tally, fill)
        tally.repeats += 1
        return first + missed

    @property
    def reach(self) -> int:
        """Return how many layers behind a missed one are worth reading ahead."""
        doubtful = self._right < WORTH
        return int(doubtful.argmax()) if doubtful.any() else len(doubtful)

    def _learn(self, first: int, settled: np.ndarray) -> None:
        """Compare what layers choose in the end with what they chose behind a missed layer."""
        layer, guess = self._guess
        self._guess = _NO_GUESS
        if layer != first:
            return
        for distance, (ids, guessed) in enumerate(zip(settled, guess, strict=False)):
            self._right[distance] += (np.isin(ids, guessed).mean() - self._right[distance]) / MEMORY

    def groups(self, layer: int, chosen: np.ndarray, tally: Tally, fill: Fill) -> Iterator[list[int]]:
        """Yield all experts that rows choose, [T, K], in groups that fit into the slots, those first that are there. A
        group is in its slots when it is yielded."""
        tally.readbacks += 1
        ids = np.unique(chosen)
        self._now += 1
        self._used[layer, ids] = self._now
        tally.wanted += len(ids)
        there = self.present(layer)[ids]
        present, absent = ids[there].tolist(), ids[~there].tolist()
        groups = [present] if len(ids) > self.slots and present else []
        rest = absent if groups else [*present, *absent]
        groups += [rest[at : at + self.slots] for at in range(0, len(rest), self.slots)]
        for group in groups:
            self.fetch([(layer, group)], tally, fill)
            yield group

    def row_groups(self, layer: int, chosen: np.ndarray, tally: Tally, fill: Fill) -> Iterator[list[int]]:
        """Yield groups of rows of [T, K] whose experts fit into the slots, and are there when the group is yielded. The
        row comes next that wants the fewest experts more."""
        tally.readbacks += 1
        wanted = [set(ids) for ids in chosen.tolist()]
        tally.wanted += len(set().union(*wanted))
        left = list(range(len(wanted)))
        while left:
            present = set(np.flatnonzero(self.present(layer)).tolist())
            union: set[int] = set()
            group = []
            while left:
                row = min(left, key=lambda row: len(wanted[row] - (union or present)))
                if len(union | wanted[row]) > self.slots:
                    break
                union |= wanted[row]
                group.append(row)
                left.remove(row)
            ids = sorted(union)
            self._now += 1
            self._used[layer, ids] = self._now
            self.fetch([(layer, ids)], tally, fill)
            yield sorted(group)

    def fetch(self, wanted: Iterable[tuple[int, list[int]]], tally: Tally, fill: Fill) -> None:
        """Fill slots with those experts of (layer, ids) that are absent, all at once: empty slots first, then those of
        experts that were used longest ago. ``ids`` are at most as many as slots.

        Raises what ``fill`` raises. What was to be brought, and what had to go for it, is absent then.
        """
        places = [place for layer, ids in wanted for place in self._places(layer, ids)]
        if not places:
            return
        for layer, _, slot in places:
            old = int(self._owner[layer, slot])
            if old >= 0:
                self._owner[layer, slot] = self._where[layer, old] = -1
                self.complete = False
                tally.evictions += 1
        fill(places)
        for layer, id, slot in places:
            self._owner[layer, slot] = id
            self._where[layer, id] = slot
        self.complete = bool((self._where >= 0).all())
        tally.misses += len(places)

    def _places(self, layer: int, ids: list[int]) -> list[Place]:
        """Return a slot for each of ``ids`` that is absent."""
        where = self._where[layer]
        absent = [id for id in ids if where[id] < 0]
        if not absent:
            return []
        owner = self._owner[layer]
        kept = {int(where[id]) for id in ids if where[id] >= 0}
        loose = [slot for slot in range(self.slots) if slot not in kept]
        loose.sort(key=lambda slot: self._used[layer, owner[slot]] if owner[slot] >= 0 else -1)
        return [Place(layer, id, slot) for id, slot in zip(absent, loose, strict=False)]
