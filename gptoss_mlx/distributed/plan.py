"""Which layers each rank holds, and the memory plan of each. Allocates nothing and knows no network.

A rank gets layers by the memory that it has for them. Whole layers, not experts: a layer divided among ranks would wait
for the network twice a layer instead of once a rank, and its sums would have other bits for each number of ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import MemoryBudgetError, UsageError
from gptoss_mlx.memory.caches import cache_bytes, sequence_bytes
from gptoss_mlx.memory.plan import PROCESS, MemoryPlan, plan
from gptoss_mlx.memory.transient import Backend

UNLIMITED = 1 << 62
OF_LAYERS = ("experts resident", "attention")
OF_TOKENS = ("caches", "prefix cache")


@dataclass(frozen=True)
class Room:
    """What a rank has: the bytes that a model may take, where models run, and what ``memory.plan.plan`` wants to know
    of the machine and the process. ``name`` is for messages."""

    name: str
    budget: int
    backend: Backend
    memory: int | None = None
    process: int = PROCESS
    threads: int = 1


@dataclass(frozen=True)
class Share:
    """A rank's part: ``layers`` of the whole model, and the plan of its memory."""

    layers: range
    plan: MemoryPlan


def part_of(config: ModelConfig, layers: range, *, ends: bool) -> ModelConfig:
    """Return the config that describes the memory of some layers: without the ``ends``, there is no vocabulary."""
    kinds = tuple(config.layer_types[number] for number in layers)
    size = config.vocab_size if ends else 0
    return replace(config, num_hidden_layers=len(layers), layer_types=kinds, vocab_size=size)


def shares(
    config: ModelConfig, dense: str, rooms: Sequence[Room], *, context: int | None, dtype: mx.Dtype
) -> list[Share]:
    """Return each rank's part. All have the same context and chunk, those of the rank with the least room.

    Raises UsageError for more ranks than layers, and MemoryBudgetError where a rank's part does not fit, with its name.
    """
    if len(rooms) > config.num_hidden_layers:
        raise UsageError(f"{len(rooms)} ranks are more than the model's {config.num_hidden_layers} layers; use fewer")
    layers = _layers(config, dense, rooms, dtype)

    def planned(context: int | None) -> list[MemoryPlan]:
        return [
            _planned(config, dense, room, own, number == 0, context, dtype)
            for number, (room, own) in enumerate(zip(rooms, layers, strict=True))
        ]

    plans = planned(context)
    common = min(one.context for one in plans)
    if any(one.context != common for one in plans):
        plans = planned(common)
    chunk = min(one.chunk for one in plans)
    return [Share(own, replace(one, chunk=chunk)) for own, one in zip(layers, plans, strict=True)]


def joint_plan(config: ModelConfig, found: Sequence[Share], dtype: mx.Dtype) -> MemoryPlan:
    """Return rank 0's plan with no more room for caches and prefixes than the other ranks have for their parts of the
    same tokens, and with the notices of all."""
    own = found[0].plan
    config_of = [part_of(config, share.layers, ends=False) for share in found]
    rows, kept = own["caches"] + own.room, own["prefix cache"]
    for share, part in zip(found[1:], config_of[1:], strict=True):
        other = share.plan
        per_row = cache_bytes(config_of[0], own.context, dtype) / cache_bytes(part, own.context, dtype)
        per_prefix = sequence_bytes(config_of[0], own.context, dtype) / sequence_bytes(part, own.context, dtype)
        rows = min(rows, int((other["caches"] + other.room) * per_row))
        kept = min(kept, int(other["prefix cache"] * per_prefix))
    parts = tuple(replace(part, nbytes=kept) if part.name == "prefix cache" else part for part in own.parts)
    joint = replace(own, parts=parts)
    notices = [f"rank {number}: {text}" for number, share in enumerate(found) for text in share.plan.notices]
    return replace(joint, budget=joint.peak + rows - joint["caches"], notices=tuple(notices))


def _layers(config: ModelConfig, dense: str, rooms: Sequence[Room], dtype: mx.Dtype) -> list[range]:
    """Deal out the layers one by one, each to the rank that has the largest part of its memory left. Each has one at
    least, and each rank's layers follow those of the rank before."""
    free = []
    for number, room in enumerate(rooms):
        one = plan(part_of(config, range(1), ends=number == 0), dense, UNLIMITED, room.backend, dtype=dtype)
        layer = sum(part.nbytes for part in one.parts if part.name in OF_LAYERS)
        beside = sum(part.nbytes for part in one.parts if part.counted and part.name not in (*OF_LAYERS, *OF_TOKENS))
        free.append(max(room.budget - beside, 1) / layer)
    counts = [1] * len(rooms)
    for _ in range(config.num_hidden_layers - len(rooms)):
        left = [1 - count / room for room, count in zip(free, counts, strict=True)]
        counts[left.index(max(left))] += 1
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _planned(
    config: ModelConfig, dense: str, room: Room, layers: range, ends: bool, context: int | None, dtype: mx.Dtype
) -> MemoryPlan:
    try:
        return plan(
            part_of(config, layers, ends=ends),
            dense,
            room.budget,
            room.backend,
            context=context,
            dtype=dtype,
            memory=room.memory,
            process=room.process,
            threads=room.threads,
        )
    except MemoryBudgetError as error:
        what = f"layers {layers[0]} to {layers[-1]}" + (" with the vocabulary" if ends else "")
        raise MemoryBudgetError(f"{room.name}, {what}: {error}") from error
