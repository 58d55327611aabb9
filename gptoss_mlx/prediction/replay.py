"""Play recorded or invented choices of experts again, with other numbers of slots and by other policies.

``as_run`` repeats a run exactly. ``played`` takes what every layer chose in the end. What layers behind a missed one
chose by wrong numbers, and was read in vain, it invents. Computes no model, and knows no machine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from gptoss_mlx.model.experts import Look
from gptoss_mlx.model.slots import SlotTable, Tally
from gptoss_mlx.prediction.expert_trace import About
from gptoss_mlx.prediction.speed import KEPT
from metal_kernels import launch

Policy = Literal["LRU ahead", "LRU", "LRU of all layers", "LFU", "Belady", "Belady of all layers"]
POLICIES: tuple[Policy, ...] = ("LRU ahead", "LRU", "LRU of all layers", "LFU", "Belady", "Belady of all layers")
"""What goes when an expert comes: what was used longest ago, least often, or, by Belady, what is needed last. It needs
the future, and bounds every policy. Layers have slots of their own, or share all of them. This runtime's are the first
two: its steps run ahead, or wait for the choice in every layer and then read nothing in vain."""


class Step(NamedTuple):
    """What a step chose in the end, [layers, T, K]. ``grouped`` says that its rows were grouped by expert."""

    prompt: bool
    grouped: bool
    chosen: np.ndarray


@dataclass
class Played:
    """What decoding cost: ``tally``, and how many whole steps were computed again in ``steps``."""

    tally: Tally = field(default_factory=Tally)
    steps: int = 0
    repeated: float = 0.0


def as_run(about: About, looks: Sequence[Look]) -> tuple[Tally, Tally]:
    """Return what decoding and what prompts cost in the run that a trace is of."""
    table = SlotTable(about.layers, about.experts, about.slots)
    decode, prefill = Tally(), Tally()
    for look in looks:
        tally = prefill if look.prompt else decode
        before = tally.misses
        _meet(table, look.way, look.first, look.chosen, tally)
        tally.nbytes += (tally.misses - before) * about.expert_nbytes
    return decode, prefill


def steps(about: About, looks: Sequence[Look]) -> list[Step]:
    """Return what each step chose in the end. One that was not finished is left out."""
    return [
        Step(group[0].prompt, group[0].way == "groups", np.concatenate([_settled(look) for look in group]))
        for group in _finished(about, looks)
    ]


def kept_ahead(about: About, looks: Sequence[Look]) -> list[float]:
    """Return how much of what layers behind a missed one chose they chose again when it was there: by how many layers
    they lie behind it, from 1 on. It says how much was read ahead in vain."""
    same: dict[int, list[float]] = {}
    for group in _finished(about, looks):
        final = np.concatenate([_settled(look) for look in group])
        for look in group:
            for layer in range(about.layers if look.missed is None else look.missed + 1, look.first + len(look.chosen)):
                kept = np.isin(look.chosen[layer - look.first], final[layer]).mean()
                same.setdefault(layer - (look.missed or 0), []).append(float(kept))
    return [float(np.mean(same[distance])) for distance in sorted(same)]


def _finished(about: About, looks: Sequence[Look]) -> Iterator[list[Look]]:
    """Yield the looks of each step that was finished, without those that saw no layer."""
    group: list[Look] = []
    for look in looks:
        if look.first == 0:
            group = []
        if len(look.chosen):
            group.append(look)
            if sum(len(_settled(one)) for one in group) == about.layers:
                yield group


def _settled(look: Look) -> np.ndarray:
    """Return what a look's layers chose in the end, up to the one that missed."""
    return look.chosen if look.missed is None else look.chosen[: look.missed + 1 - look.first]


def played(taken: Sequence[Step], experts: int, slots: int, policy: Policy, kept: float = KEPT) -> Played:
    """Return what decoding costs with so many slots a layer, by a policy. Running ahead, layers behind a missed one
    have ``kept`` of their choice right, and other experts at random; the other policies read nothing in vain."""
    if not taken:
        return Played()
    layers = len(taken[0].chosen)
    if policy == "LRU ahead":
        return _by_table(taken, SlotTable(layers, experts, slots), kept)
    return _by_value(taken, experts, slots, policy)


def invented(
    layers: int, experts: int, per_token: int, count: int, *, skew: float, stay: float, seed: int = 0, before: int = 64
) -> list[Step]:
    """Return steps of one sequence that choose at random: each expert of the token before with likelihood ``stay``
    again, and others by their rank to the power of -``skew``, in an order of each layer's own. The first ``before`` of
    them count as a prompt."""
    random = np.random.default_rng(seed)
    likely = np.arange(1.0, experts + 1) ** -skew
    order = random.permuted(np.tile(np.arange(experts), (layers, 1)), axis=1)
    found = []
    last: np.ndarray | None = None
    for number in range(before + count):
        # Of exponential times over likelihoods the shortest are a draw without replacement.
        times = random.exponential(size=(layers, experts)) / likely
        drawn = np.empty_like(times)
        np.put_along_axis(drawn, order, times, axis=1)
        if last is not None:
            again = random.random(last.shape) < stay
            np.put_along_axis(drawn, last, np.where(again, -1.0, np.take_along_axis(drawn, last, axis=1)), axis=1)
        last = np.argsort(drawn, axis=1, kind="stable")[:, :per_token]
        found.append(Step(number < before, False, last[:, None]))
    return found


def _meet(table: SlotTable, way: str, first: int, chosen: np.ndarray, tally: Tally) -> None:
    """Take a look into the table as the run did."""
    if way == "step":
        table.first_miss(first, chosen, tally, _nothing)
        return
    for number, own in enumerate(chosen, first):
        for _ in (table.groups if way == "groups" else table.row_groups)(number, own, tally, _nothing):
            pass


def _nothing(places: object) -> None:
    """Fill no slot: a table without memory."""


def _by_table(taken: Sequence[Step], table: SlotTable, kept: float) -> Played:
    found = Played()
    prefill = Tally()
    random = np.random.default_rng(0)
    for step in taken:
        layers, rows, k = step.chosen.shape
        tally = prefill if step.prompt else found.tally
        found.steps += not step.prompt
        if table.complete:
            tally.wanted += _distinct(step.chosen)
            continue
        whole = rows * k <= table.slots and launch.each_row_for_itself(rows)
        if not whole or step.grouped:
            _meet(table, "groups" if step.grouped else "rows", 0, step.chosen, tally)
            continue
        first = 0
        while (missed := table.first_miss(first, _seen(table, first, step, kept, random), tally, _nothing)) is not None:
            found.repeated += 0 if step.prompt else (layers - missed) / layers
            first = missed + 1
    return found


def _seen(table: SlotTable, first: int, step: Step, kept: float, random: np.random.Generator) -> np.ndarray:
    """Return what a look at the layers from ``first`` on sees: behind one that misses, a partly wrong choice."""
    chosen = step.chosen[first:].copy()
    for number, own in enumerate(chosen):
        present = table.present(first + number)
        if not present[own].all():
            behind = chosen[number + 1 :]
            wrong = random.random(behind.shape) >= kept
            behind[wrong] = random.integers(0, len(present), wrong.sum())
            break
    return chosen


def _by_value(taken: Sequence[Step], experts: int, slots: int, policy: Policy) -> Played:
    """Play by a policy that gives every expert a value, and lets the smallest go."""
    layers = len(taken[0].chosen)
    shared = policy.endswith("of all layers")
    value = _VALUES[policy.removesuffix(" of all layers")](taken, experts)
    values = np.zeros((layers, experts))
    present = np.zeros((layers, experts), bool)
    room = slots * layers if shared else slots
    found = Played()
    for number, step in enumerate(taken):
        tally = Tally() if step.prompt else found.tally
        found.steps += not step.prompt
        missed = None
        for layer, chosen in enumerate(step.chosen):
            pool = slice(None) if shared else slice(layer, layer + 1)
            for ids in _portions(np.unique(chosen), present[layer], room):
                absent = ids[~present[layer, ids]]
                value(values, number, layer, ids)
                tally.wanted += len(ids)
                if not len(absent):
                    continue
                missed = layer if missed is None else missed
                tally.misses += len(absent)
                present[layer, absent] = True
                surplus = int(present[pool].sum()) - room
                if surplus > 0:
                    held = np.where(present[pool], values[pool], np.inf)
                    held[layer if shared else 0, ids] = np.inf
                    going = np.argpartition(held, surplus - 1, axis=None)[:surplus]
                    present[pool].reshape(-1)[going] = False
                    tally.evictions += surplus
        tally.readbacks += 1 + (missed is not None)
        if missed is not None:
            tally.repeats += 1
            found.repeated += 0 if step.prompt else (layers - missed) / layers
    return found


def _portions(ids: np.ndarray, present: np.ndarray, room: int) -> Iterator[np.ndarray]:
    """Yield ids in parts that fit, those first that are there."""
    there = present[ids]
    ordered = np.concatenate([ids[there], ids[~there]])
    for at in range(0, len(ordered), room):
        yield ordered[at : at + room]


Value = Callable[[np.ndarray, int, int, np.ndarray], None]
"""Writes into values [layers, E] what experts of a layer are worth when a step has chosen them."""


def _last_used(taken: Sequence[Step], experts: int) -> Value:
    layers = len(taken[0].chosen)

    def write(values: np.ndarray, number: int, layer: int, ids: np.ndarray) -> None:
        values[layer, ids] = number * layers + layer + 1

    return write


def _often_used(taken: Sequence[Step], experts: int) -> Value:
    def write(values: np.ndarray, number: int, layer: int, ids: np.ndarray) -> None:
        values[layer, ids] += 1

    return write


def _soon_needed(taken: Sequence[Step], experts: int) -> Value:
    """What is needed sooner is worth more."""
    layers = len(taken[0].chosen)
    following = np.full((layers, experts), np.inf)
    next_use: list[list[np.ndarray]] = []
    for number in reversed(range(len(taken))):
        rows = []
        for layer, chosen in enumerate(taken[number].chosen):
            ids = np.unique(chosen)
            row = np.full(experts, np.inf)
            row[ids] = following[layer, ids]
            rows.append(row)
            following[layer, ids] = number * layers + layer
        next_use.append(rows)
    next_use.reverse()

    def write(values: np.ndarray, number: int, layer: int, ids: np.ndarray) -> None:
        values[layer, ids] = -next_use[number][layer][ids]

    return write


_VALUES: dict[str, Callable[[Sequence[Step], int], Value]] = {
    "LRU": _last_used,
    "LFU": _often_used,
    "Belady": _soon_needed,
}


def _distinct(chosen: np.ndarray) -> int:
    return sum(len(np.unique(own)) for own in chosen)
