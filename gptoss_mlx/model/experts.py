"""Experts in slots: every layer holds a few of its experts in memory, those used last, and reads others when it must.

A decode step may run ahead on what is in the slots; an absent expert adds nothing. Then what all its layers chose is
read back at once, what was absent is read from the model folder, and the step is repeated from the first layer that
missed an expert. To that layer the choice was right, so each repeat settles one layer more at least. Or it waits for
the choice in every layer, which takes 0.2 to 0.35 ms each on an M4 (mlx-lm issue 1438). The first is faster where few
steps miss, the second where a repeat takes longer than those waits. Which it is depends on the chip, the slots and the
text, so both are tried now and then, and the faster one is used. Prompts go layer by layer, because a chunk wants most
experts of a layer; each is read once for the chunk.

Slots are MLX arrays that the host writes where they lie. Nothing may still read them then, so it first waits for the
device. Knows logits, memory and files; which expert goes is in ``slots``. Knows no attention and no cache.
"""

import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import UsageError
from gptoss_mlx.fastest import Fastest
from gptoss_mlx.model.slots import Fill, Place, SlotTable, Tally
from gptoss_mlx.model_folder import ModelFolder, Stretch
from gptoss_mlx.model_folder.expert_slots import holds_experts, is_read, part_nbytes
from gptoss_mlx.model_folder.part_reader import Part, PartReader
from gptoss_mlx.model_folder.safetensors import nbytes_of
from metal_kernels import launch
from metal_kernels.operands import Pass


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
            Part(file, begin + offset + id * part_nbytes(stored, shape), self.parts[name][slot].data)
            for name, (offset, stored, shape) in self.stretch.tensors.items()
            if is_read(name)
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
        biases = {name: self._biases(stretch, name, array.dtype) for name, array in arrays.items() if not is_read(name)}
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
        values, chosen = self._read_back(logits)
        missed = self.table.first_miss(first, chosen, tally, self.filling(tally))
        self._saw("step", tally, first, missed, chosen, values)
        return missed

    def choice(self, way: Way, layer: int, logits: mx.array, tally: Tally) -> np.ndarray:
        """Read back what the rows of one layer choose by their logits [T, E], [T, K]."""
        values, chosen = self._read_back([logits])
        self._saw(way, tally, layer, None, chosen, values)
        return chosen[0]

    def _read_back(self, logits: Sequence[mx.array]) -> tuple[np.ndarray, np.ndarray]:
        """Wait for the logits [T, E] of layers. Return them, [layers, T, E], and what they choose, [layers, T, K], as
        ``reference.top_experts`` does: of equal ones the lower."""
        mx.eval(logits)
        each = [np.array(one, copy=False) for one in logits]
        values = np.stack(each) if each else np.empty((0, 1, self.config.num_local_experts), np.float32)
        return values, np.argsort(-values, axis=-1, kind="stable")[..., : self.config.num_experts_per_tok]

    def filling(self, tally: Tally) -> Fill:
        """Return what reads experts into their slots, and counts that in ``tally``. It raises ModelFolderError."""
        return lambda places: self._fill(places, tally)

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
        """Yield passes over all experts that rows choose by their logits [T, E], each expert once, those first that are
        in slots. Its experts are in their slots when a pass is yielded."""
        own, layer, tally = self.experts, self.layer, self.tally
        chosen = own.choice("groups", layer, logits, tally)
        pairs = np.bincount(chosen.reshape(-1), minlength=logits.shape[1])
        for group in own.table.groups(layer, chosen, tally, own.filling(tally)):
            slots = np.full(logits.shape[1], -1, np.int32)
            slots[group] = own.layers[layer].table[group]
            yield Pass(mx.array(slots), int(pairs[group].sum()))

    def row_groups(self, logits: mx.array) -> Iterator[list[int]]:
        """Yield groups of rows of logits [T, E] whose experts fit into the slots, and are there when the group is
        yielded. What it takes to compute a group must be under way before the next is asked for."""
        own, layer, tally = self.experts, self.layer, self.tally
        yield from own.table.row_groups(layer, own.choice("rows", layer, logits, tally), tally, own.filling(tally))


def memory_of(array: mx.array) -> np.ndarray:
    """Return the bytes of an array, computing it first, to be written where they lie."""
    mx.eval(array)
    kept: Any = (ctypes.c_uint8 * array.nbytes).from_buffer(cast(Any, array))
    return np.ctypeslib.as_array(kept)
