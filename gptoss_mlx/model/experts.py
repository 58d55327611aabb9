"""Experts in slots: every layer holds a few of its experts in memory, those used last, and reads others when it must.

A decode step may run ahead on what is in the slots; an absent expert adds nothing. Then what all its layers chose is
read back at once, what was absent is read from the model folder, and the step is repeated from the first layer that
missed an expert. To that layer the choice was right, so each repeat settles one layer more at least. Or it waits for
the choice in every layer, which takes 0.2 to 0.35 ms each on an M4 (mlx-lm issue 1438). The first is faster where few
steps miss, the second where a repeat takes longer than those waits. Which it is depends on the chip, the slots and the
text, so both are tried now and then, and the faster one is used. Prompts go layer by layer, because a chunk wants most
experts of a layer; each is read once for the chunk.

Slots are MLX arrays that the host writes where they lie. Nothing may still read them then: ``fetch`` waits for the
device. Knows logits, memory and files; which expert goes is in ``slots``. Knows no attention and no cache.
"""

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.fastest import Fastest
from gptoss_mlx.model.slots import Place, SlotTable, Tally
from gptoss_mlx.model_folder import ModelFolder, Stretch, layout
from gptoss_mlx.model_folder.part_reader import Part, PartReader
from gptoss_mlx.model_folder.safetensors import nbytes_of
from metal_kernels import launch
from metal_kernels.reference import Pass

STORED = {mx.float32: "F32", mx.bfloat16: "BF16"}
"""How a slot's biases are kept, by the model's dtype."""


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


Way = Literal["step", "groups", "rows"]
"""How a choice was met: in a step that ran ahead, or in one layer by groups of experts or by groups of rows."""


class Look(NamedTuple):
    """What the host saw when it waited for a choice: ``chosen`` [layers, T, K] in each layer from ``first`` on, each
    row's likeliest first, and its ``weights``, of the same shape. A choice after the layer ``missed`` was made on wrong
    numbers. ``prompt`` says that a prompt was read."""

    way: Way
    prompt: bool
    first: int
    missed: int | None
    chosen: np.ndarray
    weights: np.ndarray


@dataclass
class PagedExperts:
    """The slots of all layers in memory. ``decode`` and ``prefill`` tally what each has cost. ``watch`` is called with
    everything that the host sees. ``ahead`` chooses by the number of rows whether a step runs ahead."""

    slots: int
    config: ModelConfig
    reader: PartReader
    watch: Callable[[Look], None] | None = None
    layers: list[LayerSlots] = field(default_factory=list, init=False)
    decode: Tally = field(default_factory=Tally, init=False)
    prefill: Tally = field(default_factory=Tally, init=False)
    ahead: dict[int, Fastest[bool]] = field(
        default_factory=lambda: defaultdict(lambda: Fastest((True, False))), init=False
    )

    def __post_init__(self) -> None:
        self.table = SlotTable(self.config.num_hidden_layers, self.config.num_local_experts, self.slots)

    @classmethod
    def open(cls, folder: ModelFolder, slots: int, watch: Callable[[Look], None] | None = None) -> "PagedExperts":
        """Open the folder's files. Raises ModelFolderError, and UsageError for fewer slots than a token chooses experts
        or more than there are."""
        config = folder.config
        least = config.num_experts_per_tok
        if not least <= slots <= config.num_local_experts:
            raise UsageError(f"slots is {slots}; it must be from {least} to {config.num_local_experts}")
        files = [stretch.file for stretch in folder.stretches() if holds_experts(stretch)]
        return cls(slots, config, PartReader(files), watch)

    @property
    def complete(self) -> bool:
        """Return whether nobody needs to look at choices: every expert is in a slot, and nothing watches."""
        return self.table.complete and self.watch is None

    def add_layer(self, stretch: Stretch, arrays: dict[str, mx.array]) -> mx.array:
        """Take ``arrays`` as the next layer's slots, by the names of ``slot_stretch``. Return its table, [E] int32."""
        table = mx.array(np.full(self.config.num_local_experts, -1, np.int32))
        biases = {
            name: self._biases(stretch, name, array.dtype) for name, array in arrays.items() if not _is_read(name)
        }
        parts = {name: memory_of(array).reshape(self.slots, -1) for name, array in arrays.items()}
        self.layers.append(LayerSlots(stretch, memory_of(table).view(np.int32), parts, biases))
        return table

    def _biases(self, stretch: Stretch, name: str, dtype: mx.Dtype) -> np.ndarray:
        offset, stored, shape = stretch.tensors[name]
        data = np.empty(nbytes_of(stored, shape), np.uint8)
        self.reader.read([Part(stretch.file, stretch.offset + offset, data.data)])
        cast = mx.array(data).view(mx.bfloat16).astype(dtype)
        return memory_of(cast).reshape(shape[0], -1).copy()

    def can_run_ahead(self, rows: int) -> bool:
        """Return whether a step of so many rows can run on what is in the slots. It cannot where rows may want more at
        once than there are slots, nor where they are grouped by expert."""
        return rows * self.config.num_experts_per_tok <= self.slots and launch.each_row_for_itself(rows)

    def first_miss(self, first: int, logits: Sequence[mx.array], tally: Tally) -> int | None:
        """Read back what a step chose by the router logits [T, E] of each layer from ``first`` on, which may be none,
        and read what was absent. Return the first layer that missed an expert, or None."""
        values = self._read_back(logits)
        chosen = self._choice(values)
        missed = self.table.first_miss(first, chosen, tally, lambda places: self._fill(places, tally))
        self._saw("step", tally, first, missed, chosen, values)
        return missed

    def passes(self, layer: int, logits: mx.array, tally: Tally) -> Iterator[Pass]:
        """Yield passes over all experts that rows choose by their logits [T, E], each expert once, those first that are
        in slots. Its experts are in their slots when a pass is yielded."""
        values = self._read_back([logits])
        chosen = self._choice(values)
        self._saw("groups", tally, layer, None, chosen, values)
        pairs = np.bincount(chosen.reshape(-1), minlength=logits.shape[1])
        for group in self.table.groups(layer, chosen[0], tally, lambda places: self._fill(places, tally)):
            slots = np.full(logits.shape[1], -1, np.int32)
            slots[group] = self.layers[layer].table[group]
            yield Pass(mx.array(slots), int(pairs[group].sum()))

    def row_groups(self, layer: int, logits: mx.array, tally: Tally) -> Iterator[list[int]]:
        """Yield groups of rows of logits [T, E] whose experts fit into the slots, and are there when the group is
        yielded. What it takes to compute a group must be under way before the next is asked for."""
        values = self._read_back([logits])
        chosen = self._choice(values)
        self._saw("rows", tally, layer, None, chosen, values)
        yield from self.table.row_groups(layer, chosen[0], tally, lambda places: self._fill(places, tally))

    def fetch(self, wanted: Iterable[tuple[int, list[int]]], tally: Tally) -> None:
        """Read the experts of (layer, ids) that are absent. Raises ModelFolderError."""
        self.table.fetch(wanted, tally, lambda places: self._fill(places, tally))

    def _read_back(self, logits: Sequence[mx.array]) -> np.ndarray:
        """Wait for the logits [T, E] of layers, and return them, [layers, T, E]."""
        mx.eval(logits)
        values = [np.array(one, copy=False) for one in logits]
        return np.stack(values) if values else np.empty((0, 1, self.config.num_local_experts), np.float32)

    def _choice(self, values: np.ndarray) -> np.ndarray:
        """Return what logits [layers, T, E] choose, [layers, T, K], as ``reference.top_experts`` does: of equal ones
        the lower."""
        return np.argsort(-values, axis=-1, kind="stable")[..., : self.config.num_experts_per_tok]

    def _fill(self, places: list[Place], tally: Tally) -> None:
        """Read experts into their slots. The tables that kernels read say so when it returns, and nothing else if it
        raises."""
        mx.synchronize()  # a pending evaluation may still read the slots, and the table
        for layer, _, slot in places:
            table = self.layers[layer].table
            table[table == slot] = -1
        reads = [part for layer, id, slot in places for part in self.layers[layer].reads(id, slot)]
        self.reader.read(reads)
        for layer, id, slot in places:
            own = self.layers[layer]
            for name, biases in own.biases.items():
                own.parts[name][slot] = biases[id]
            own.table[id] = slot
        tally.nbytes += sum(len(read.into) for read in reads)

    def _saw(
        self, way: Way, tally: Tally, first: int, missed: int | None, chosen: np.ndarray, values: np.ndarray
    ) -> None:
        if self.watch is None:
            return
        own = np.take_along_axis(values, chosen, axis=-1)
        weights = np.exp(own - own[..., :1])
        weights /= weights.sum(axis=-1, keepdims=True)
        self.watch(Look(way, tally is self.prefill, first, missed, chosen, weights))


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


def memory_of(array: mx.array) -> np.ndarray:
    """Return the bytes of an array, computing it first, to be written where they lie."""
    mx.eval(array)
    kept: Any = (ctypes.c_uint8 * array.nbytes).from_buffer(cast(Any, array))
    return np.ctypeslib.as_array(kept)
