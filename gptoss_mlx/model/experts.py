"""Experts in slots: every layer holds a few of its experts in memory, those used last, and reads others when it must.

A decode step runs on what is in the slots; an absent expert adds nothing. Then what all its layers chose is read back
at once, what was absent is read from the model folder, and the step is repeated from the first layer that missed an
expert. To that layer the choice was right, so each repeat settles one layer more at least. Reading every layer's choice
back instead would cost more than the disk: 0.2 to 0.35 ms a layer on a Mac (mlx-lm issue 1438). Prompts go layer by
layer, because a chunk wants most experts of a layer; each is read once for the chunk.

Slots are MLX arrays that the host writes where they lie. Nothing may still read them then: ``fetch`` waits for the
device. Knows logits, slots and files; knows no attention and no cache.
"""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.model_folder import ModelFolder, Stretch, layout
from gptoss_mlx.model_folder.part_reader import Part, PartReader
from gptoss_mlx.model_folder.safetensors import nbytes_of
from metal_kernels import launch
from metal_kernels.reference import Pass

STORED = {mx.float32: "F32", mx.bfloat16: "BF16"}
"""How a slot's biases are kept, by the model's dtype."""


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


def slot_stretch(stretch: Stretch, slots: int, dtype: mx.Dtype) -> Stretch:
    """Return where the parts of ``slots`` experts lie in a layer's buffer, as a stretch of such a file would have them.

    Biases have the model's dtype, which on the CPU is not the stored one.
    """
    inside = {}
    at = 0
    for name, (_, stored, shape) in stretch.tensors.items():
        kept = STORED[dtype] if name.endswith(".bias") else stored
        inside[name] = (at, kept, (slots, *shape[1:]))
        at = layout.align(at + nbytes_of(kept, inside[name][2]))
    return Stretch(stretch.file, 0, at, inside)


def paged_nbytes(stretch: Stretch, slots: int, dtype: mx.Dtype) -> int:
    """Return the bytes of memory that a layer's experts take: its slots, and the biases of all experts."""
    biases = (shape for name, (_, _, shape) in stretch.tensors.items() if not _is_read(name))
    return slot_stretch(stretch, slots, dtype).nbytes + sum(nbytes_of(STORED[dtype], shape) for shape in biases)


def expert_nbytes(stretch: Stretch) -> int:
    """Return the bytes that are read for one expert: its matrices and scales, 13,219,200 for the published models."""
    return sum(_one(stored, shape) for name, (_, stored, shape) in stretch.tensors.items() if _is_read(name))


def _is_read(name: str) -> bool:
    """Return whether a tensor is read expert by expert. Biases are small and stay in memory for all experts."""
    return not name.endswith(".bias")


def _one(stored: str, shape: tuple[int, ...]) -> int:
    return nbytes_of(stored, shape[1:])


class LayerSlots(NamedTuple):
    """One layer's slots as the host sees them."""

    stretch: Stretch
    table: np.ndarray  # [E] int32, the memory of the array that kernels read: an expert's slot, or -1
    parts: dict[str, np.ndarray]  # [S, bytes] uint8 by tensor, the memory of the slots
    biases: dict[str, np.ndarray]  # [E, bytes] uint8 by tensor, of all experts

    def reads(self, id: int, slot: int) -> list[Part]:
        """Return the four reads that bring an expert into a slot."""
        file = self.stretch.file
        begin = self.stretch.offset
        return [
            Part(file, begin + offset + id * _one(stored, shape), self.parts[name][slot].data)
            for name, (offset, stored, shape) in self.stretch.tensors.items()
            if _is_read(name)
        ]


@dataclass
class PagedExperts:
    """The slots of all layers. ``decode`` and ``prefill`` tally what each has cost.

    ``complete`` is whether every expert is in a slot. Nothing can miss then.
    """

    slots: int
    config: ModelConfig
    reader: PartReader
    layers: list[LayerSlots] = field(default_factory=list, init=False)
    decode: Tally = field(default_factory=Tally, init=False)
    prefill: Tally = field(default_factory=Tally, init=False)
    complete: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        layers, experts = self.config.num_hidden_layers, self.config.num_local_experts
        self._k = self.config.num_experts_per_tok
        self._where = np.full((layers, experts), -1)  # the slot of each expert
        self._owner = np.full((layers, self.slots), -1)  # the expert in each slot
        self._used = np.zeros((layers, experts), np.int64)
        self._now = 0

    @classmethod
    def open(cls, folder: ModelFolder, slots: int) -> "PagedExperts":
        """Open the folder's files. Raises ModelFolderError, and UsageError for fewer slots than a token chooses experts
        or more than there are."""
        config = folder.config
        least = config.num_experts_per_tok
        if not least <= slots <= config.num_local_experts:
            raise UsageError(f"slots is {slots}; it must be from {least} to {config.num_local_experts}")
        files = [stretch.file for stretch in folder.stretches() if holds_experts(stretch)]
        return cls(slots, config, PartReader(files))

    def add_layer(self, stretch: Stretch, arrays: dict[str, mx.array]) -> mx.array:
        """Take ``arrays`` as the next layer's slots, by the names of ``slot_stretch``. Return its table, [E] int32."""
        table = mx.array(np.full(self.config.num_local_experts, -1, np.int32))
        biases = {
            name: self._biases(stretch, name, array.dtype) for name, array in arrays.items() if not _is_read(name)
        }
        parts = {name: _memory(array).reshape(self.slots, -1) for name, array in arrays.items()}
        self.layers.append(LayerSlots(stretch, _memory(table).view(np.int32), parts, biases))
        return table

    def _biases(self, stretch: Stretch, name: str, dtype: mx.Dtype) -> np.ndarray:
        offset, stored, shape = stretch.tensors[name]
        data = np.empty(nbytes_of(stored, shape), np.uint8)
        self.reader.read([Part(stretch.file, stretch.offset + offset, data.data)])
        cast = mx.array(data).view(mx.bfloat16).astype(dtype)
        return _memory(cast).reshape(shape[0], -1).copy()

    def can_miss(self, rows: int) -> bool:
        """Return whether a step of so many rows runs on what is in the slots and may miss some of it. If not, all
        experts are there, or the rows go layer by layer: where they may want more at once than there are slots, and
        where they are grouped by expert."""
        return not self.complete and rows * self._k <= self.slots and launch.each_row_for_itself(rows)

    def first_miss(self, first: int, logits: Sequence[mx.array], tally: Tally) -> int | None:
        """Read back what a step chose by the router logits [T, E] of each layer from ``first`` on, and read what was
        absent. Return the first layer that missed an expert, or None."""
        chosen = self._choice(logits).reshape(len(logits), -1)
        numbers = np.arange(first, first + len(chosen))[:, None]
        self._used[numbers, chosen] = self._now
        missed = np.flatnonzero((self._where[numbers, chosen] < 0).any(axis=1))
        settled = chosen[: missed[0] + 1] if len(missed) else chosen
        tally.wanted += sum(len(set(ids)) for ids in settled.tolist())
        if not len(missed):
            return None
        self.fetch([(first + n, np.unique(chosen[n]).tolist()) for n in missed.tolist()], tally)
        tally.repeats += 1
        return first + int(missed[0])

    def passes(self, layer: int, logits: mx.array, tally: Tally) -> Iterator[Pass]:
        """Yield passes over all experts that rows choose by their logits [T, E], each expert once, those first that are
        in slots. Its experts are in their slots when a pass is yielded."""
        chosen = self._choice([logits])
        tally.readbacks += 1
        pairs = np.bincount(chosen.reshape(-1), minlength=logits.shape[1])
        ids = np.flatnonzero(pairs)
        self._used[layer, ids] = self._now
        tally.wanted += len(ids)
        present = ids[self._where[layer, ids] >= 0].tolist()
        absent = ids[self._where[layer, ids] < 0].tolist()
        groups = [present] if len(present) + len(absent) > self.slots and present else []
        rest = absent if groups else [*present, *absent]
        groups += [rest[at : at + self.slots] for at in range(0, len(rest), self.slots)]
        for group in groups:
            self.fetch([(layer, group)], tally)
            table = np.full(logits.shape[1], -1, np.int32)
            table[group] = self._where[layer, group]
            yield Pass(mx.array(table), int(pairs[group].sum()))

    def row_groups(self, layer: int, logits: mx.array, tally: Tally) -> Iterator[list[int]]:
        """Yield groups of rows of logits [T, E] whose experts fit into the slots, and are there when the group is
        yielded. What it takes to compute a group must be under way before the next is asked for. The row comes next
        that wants the fewest experts more."""
        chosen = [set(ids) for ids in self._choice([logits])[0].tolist()]
        tally.readbacks += 1
        tally.wanted += len(set().union(*chosen))
        left = list(range(len(chosen)))
        while left:
            present = set(np.flatnonzero(self._where[layer] >= 0).tolist())
            union: set[int] = set()
            group = []
            while left:
                row = min(left, key=lambda row: len(chosen[row] - (union or present)))
                if len(union | chosen[row]) > self.slots:
                    break
                union |= chosen[row]
                group.append(row)
                left.remove(row)
            ids = sorted(union)
            self._now += 1
            self._used[layer, ids] = self._now
            self.fetch([(layer, ids)], tally)
            yield sorted(group)

    def _choice(self, logits: Sequence[mx.array]) -> np.ndarray:
        """Wait for the logits [T, E] of layers. Return what they choose, [layers, T, K], as ``reference.top_experts``
        does: of equal ones the lower."""
        mx.eval(logits)
        self._now += 1
        values = np.stack([np.array(one, copy=False) for one in logits])
        return np.argsort(-values, axis=-1, kind="stable")[..., : self._k]

    def fetch(self, wanted: Iterable[tuple[int, list[int]]], tally: Tally) -> None:
        """Read the experts of (layer, ids) that are absent, all at once, into the slots of others that were used
        longest ago. ``ids`` are at most as many as slots.

        Raises ModelFolderError. What was to be read, and what had to go for it, is absent then.
        """
        places = [(layer, id, slot) for layer, ids in wanted for id, slot in self._places(layer, ids)]
        if not places:
            return
        mx.synchronize()  # a pending evaluation may still read the slots, and the table
        for layer, _, slot in places:
            old = int(self._owner[layer, slot])
            if old >= 0:
                self._owner[layer, slot] = self._where[layer, old] = -1
                self.layers[layer].table[old] = -1
                self.complete = False
                tally.evictions += 1
        reads = [part for layer, id, slot in places for part in self.layers[layer].reads(id, slot)]
        self.reader.read(reads)
        for layer, id, slot in places:
            own = self.layers[layer]
            for name, biases in own.biases.items():
                own.parts[name][slot] = biases[id]
            self._owner[layer, slot] = id
            self._where[layer, id] = own.table[id] = slot
        self.complete = bool((self._where >= 0).all())
        tally.misses += len(places)
        tally.nbytes += sum(len(read.into) for read in reads)

    def _places(self, layer: int, ids: list[int]) -> list[tuple[int, int]]:
        """Return (id, slot) for each of ``ids`` that is absent: empty slots first, then those used longest ago."""
        where = self._where[layer]
        absent = [id for id in ids if where[id] < 0]
        if not absent:
            return []
        owner = self._owner[layer]
        kept = {int(where[id]) for id in ids if where[id] >= 0}
        loose = [slot for slot in range(self.slots) if slot not in kept]
        loose.sort(key=lambda slot: self._used[layer, owner[slot]] if owner[slot] >= 0 else -1)
        return list(zip(absent, loose, strict=False))


@dataclass(frozen=True)
class Visit:
    """One layer's slots while rows go through it layer by layer, and where that is counted."""

    experts: PagedExperts
    layer: int
    tally: Tally

    def passes(self, logits: mx.array) -> Iterator[Pass]:
        """Run :meth:`PagedExperts.passes`."""
        return self.experts.passes(self.layer, logits, self.tally)

    def row_groups(self, logits: mx.array) -> Iterator[list[int]]:
        """Run :meth:`PagedExperts.row_groups`."""
        return self.experts.row_groups(self.layer, logits, self.tally)


def holds_experts(stretch: Stretch) -> bool:
    """Return whether a stretch holds a layer's experts."""
    return any(layout.is_expert(name) for name in stretch.tensors)


def _memory(array: mx.array) -> np.ndarray:
    """Return the bytes of an array, computing it first, to be written where they lie."""
    mx.eval(array)
    kept: Any = (ctypes.c_uint8 * array.nbytes).from_buffer(cast(Any, array))
    return np.ctypeslib.as_array(kept)
