"""The memory plan: what a model takes in bytes, part by part, and what of it fits a budget. Allocates nothing.

Bytes of weights come from the shapes of ``model_folder.layout``, those of steps from ``transient``. A process that
holds a part of a model is described by the config of that part: its layers, heads and experts. Knows no machine: the
budget is given. For the native CPU library the sums are compared with measured peaks. For Metal they are a prediction.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.context import PREFILL_CHUNK
from gptoss_mlx.errors import MemoryBudgetError
from gptoss_mlx.memory.caches import cache_bytes, sequence_bytes
from gptoss_mlx.memory.transient import Backend, transient_bytes
from gptoss_mlx.model_folder.layout import TensorSpec, align, shards
from gptoss_mlx.model_folder.safetensors import nbytes_of

AGENT_CONTEXT = 48_000
"""Tokens that an agent's conversation reaches. A plan keeps room for so many, in use and in the prefix cache."""

LEAST_CONTEXT = 4_096
"""Tokens below which a context is not shortened."""

LEAST_CHUNK = 128
"""Positions below which a prefill chunk is not made smaller: each chunk reads nearly all weights once."""

USEFUL_SHARE = 4
"""With less than a quarter of the experts in memory more than a third of them are read from disk (oMLX measured a hit
rate of 0.67 at a quarter, and 0.45 at an eighth), so a plan first gives up the prefix cache."""

PROCESS = 22_000_000
"""Anonymous bytes of Python and its modules, measured on Linux."""

TOKENIZER = 250
"""Anonymous bytes of a tokenizer for each of its tokens: 50 MB for the published 200,000, measured on Linux."""

ALLOCATOR_CACHE = {"metal": 1 << 30, "cpu": 32 << 20, "plain": 32 << 20}
"""The most bytes that MLX's allocator may keep for reuse, and never more than a step frees. The CPU's is MLX's own
default. On Metal that is in effect unbounded."""

CONTEXTS_KEPT = 4
"""The most full contexts that the prefix cache is given."""

PARTS = (
    "experts resident",
    "experts paged",
    "attention",
    "head",
    "embedding",
    "caches",
    "prefix cache",
    "transient",
    "allocator cache",
    "process",
)
"""Names of parts, in the order of a plan. A plan has one of the first two. Attention includes norms and routers."""

Decision = Literal["all resident", "paged"]


@dataclass(frozen=True)
class Part:
    """One use of memory. ``mapped`` bytes are a file's, and the system can drop them; others are anonymous. Only
    ``counted`` bytes count against the budget: on Metal those of its working set, else the anonymous ones."""

    name: str
    nbytes: int
    mapped: bool = False
    counted: bool = True


@dataclass(frozen=True)
class MemoryPlan:
    """What fits ``budget`` bytes. ``slots`` are the experts a layer holds at once, None for all of them. ``chunk`` is
    how many positions of a prompt are read at a time. ``loading`` is the most that is held before the weights are
    loaded. ``memory`` is the machine's, None if unknown. ``notices`` say what is smaller than wanted."""

    backend: Backend
    budget: int
    context: int
    chunk: int
    slots: int | None
    parts: tuple[Part, ...]
    loading: int
    memory: int | None = None
    notices: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> int:
        """Return the bytes of a part."""
        return next(part.nbytes for part in self.parts if part.name == name)

    @property
    def decision(self) -> Decision:
        """Return whether all experts stay in memory."""
        return "all resident" if self.slots is None else "paged"

    @property
    def held(self) -> int:
        """Return the bytes that count against the budget when every part is full."""
        return sum(part.nbytes for part in self.parts if part.counted)

    @property
    def peak(self) -> int:
        """Return the most bytes that ever count against the budget."""
        return max(self.held, self.loading)

    @property
    def mapped(self) -> int:
        """Return the bytes of mapped files, whether or not they count."""
        return sum(part.nbytes for part in self.parts if part.mapped)

    @property
    def room(self) -> int:
        """Return how much of the budget no part uses."""
        return self.budget - self.peak

    @property
    def left(self) -> int | None:
        """Return what the machine keeps for the page cache, other programs and the system, None if unknown. Mapped
        bytes that do not count lie in the page cache."""
        return None if self.memory is None else self.memory - self.peak


def plan(
    config: ModelConfig,
    dense: str,
    budget: int,
    backend: Backend,
    *,
    context: int | None = None,
    rows: int = 1,
    chunk: int = PREFILL_CHUNK,
    dtype: mx.Dtype | None = None,
    memory: int | None = None,
    process: int | None = None,
    threads: int = 1,
) -> MemoryPlan:
    """Return the best plan that fits ``budget`` bytes.

    ``dense`` is the layout's "q8" or "bf16". ``context`` is how many positions are wanted. None means as many as fit
    beside all experts, or else AGENT_CONTEXT. All ``rows`` share them. ``chunk`` is the largest prefill chunk.
    ``dtype`` is that of keys and values; the default is the runtime's. ``memory`` is the machine's, ``process`` the
    anonymous bytes of the process before it loads. ``threads`` are the native library's. Raises MemoryBudgetError,
    which names the smallest budget that works.
    """
    dtype = dtype or (mx.bfloat16 if backend == "metal" else mx.float32)
    process = PROCESS if process is None else process
    need = _Need(
        config, backend, dtype, rows, chunk, process, threads, _Weights.of(config, dense, backend, dtype), budget
    )
    wanted = min(context or config.max_position_embeddings, config.max_position_embeddings)
    found = _best(need, wanted, asked=context is not None)
    if found is None:
        least = need.least(min(wanted, LEAST_CONTEXT))
        needed = _rounded_up(need.peak(least))
        experts = f"{least.slots} of {config.num_local_experts} experts a layer"
        raise MemoryBudgetError(
            f"the model needs at least {needed} GB, with {experts} in memory and a context of {least.context:,} "
            f"tokens, and the budget is {budget / 1e9:.2f} GB; allow more: --memory {needed}GB"
        )
    resident = found.slots == config.num_local_experts
    most = CONTEXTS_KEPT * sequence_bytes(config, config.max_position_embeddings, dtype)
    more = min((budget - need.peak(found)) // 2, most) if resident else 0
    return MemoryPlan(
        backend=backend,
        budget=budget,
        context=found.context,
        chunk=min(found.chunk, found.context),
        slots=None if resident else found.slots,
        parts=need.parts(found, more),
        loading=need.loading(found),
        memory=memory,
        notices=_notices(found, config, budget, asked=context),
    )


@dataclass(frozen=True)
class _Weights:
    """The bytes of a model's weights as ``model.weights`` holds them."""

    experts: int
    one_slot: int  # an expert in every layer
    biases: int  # of all experts, which stay in memory where the others are paged
    attention: int
    head: int
    embedding: int
    last: int  # what is loaded last and freed, because all of it is cast

    @classmethod
    def of(cls, config: ModelConfig, dense: str, backend: Backend, dtype: mx.Dtype) -> "_Weights":
        embedding, *layers, head = shards(config, dense)
        tensors = [(name, spec) for layer in layers for name, spec in layer.expert_tensors.items()]
        biases = sum(math.prod(spec.shape) for name, spec in tensors if name.endswith(".bias")) * dtype.size
        others = sum(nbytes_of(spec.dtypes[0], spec.shape) for name, spec in tensors if not name.endswith(".bias"))
        return cls(
            experts=sum(_held(layer.expert_tensors, backend) for layer in layers),
            one_slot=-(-(others + biases) // config.num_local_experts),
            biases=biases,
            attention=sum(_held(layer.dense_tensors, backend) for layer in layers),
            head=_held(head.tensors, backend),
            embedding=_stored(embedding.tensors),
            last=0
            if any(_stays(name, spec, backend) for name, spec in head.tensors.items())
            else _stored(head.tensors),
        )


@dataclass(frozen=True)
class _Choice:
    """What a plan decides. ``slots`` are the experts of a layer, ``kept`` the tokens of the prefix cache."""

    context: int
    chunk: int
    kept: int
    slots: int


@dataclass(frozen=True)
class _Need:
    """What a plan is for, and what a choice needs."""

    config: ModelConfig
    backend: Backend
    dtype: mx.Dtype
    rows: int
    chunk: int
    process: int
    threads: int
    weights: _Weights
    budget: int

    def parts(self, choice: _Choice, more: int = 0) -> tuple[Part, ...]:
        """Return the parts, the prefix cache with ``more`` bytes."""
        config, weights = self.config, self.weights
        metal = self.backend == "metal"
        resident = choice.slots == config.num_local_experts
        experts = (
            Part("experts resident", weights.experts, mapped=metal)
            if resident
            else Part("experts paged", choice.slots * weights.one_slot + weights.biases)
        )
        row = cache_bytes(config, config.sliding_window - 1, self.dtype)  # and a mark
        transient = transient_bytes(config, self.backend, choice.chunk, choice.context, self.rows, self.threads)
        return (
            experts,
            Part("attention", weights.attention, mapped=metal),
            Part("head", weights.head, mapped=metal),
            Part("embedding", weights.embedding, mapped=metal, counted=not metal),
            Part("caches", sequence_bytes(config, choice.context, self.dtype) + (self.rows - 1) * 2 * row),
            Part("prefix cache", (sequence_bytes(config, choice.kept, self.dtype) if choice.kept else 0) + more),
            Part("transient", transient),
            Part("allocator cache", min(ALLOCATOR_CACHE[self.backend], transient // 2)),
            Part("process", self.process + TOKENIZER * config.vocab_size, counted=not metal),
        )

    def loading(self, choice: _Choice) -> int:
        """Return the most bytes held while weights are loaded. The head comes last, beside all others. As it is stored
        it is there too until all of it is cast."""
        names = (*PARTS[:5], "process")
        held = sum(part.nbytes for part in self.parts(choice) if part.counted and part.name in names)
        return held + self.weights.last

    def peak(self, choice: _Choice) -> int:
        """Return the most bytes that ever count against a budget."""
        return max(sum(part.nbytes for part in self.parts(choice) if part.counted), self.loading(choice))

    def most_slots(self, context: int, chunk: int, kept: int) -> _Choice:
        """Return the choice with as many slots as fit. They may be fewer than none."""
        experts = self.config.num_local_experts
        whole = _Choice(context, chunk, kept, experts)
        if self.peak(whole) <= self.budget:
            return whole
        bare = self.peak(_Choice(context, chunk, kept, 0))
        return _Choice(context, chunk, kept, min(experts - 1, (self.budget - bare) // self.weights.one_slot))

    def least(self, context: int) -> _Choice:
        """Return the choice that needs least."""
        return _Choice(context, LEAST_CHUNK, 0, self.config.num_experts_per_tok)


def _best(need: _Need, wanted: int, *, asked: bool) -> _Choice | None:
    """Return the best choice that fits, or None. With all experts in memory only the chunk may be smaller. With a
    useful share of them the prefix cache may be too, and a context that was not asked for. With fewer experts all may
    be."""
    config = need.config
    experts = config.num_local_experts
    fewest = config.num_experts_per_tok
    usual = wanted if asked else min(wanted, AGENT_CONTEXT)
    kept = min(usual, AGENT_CONTEXT)
    longest = _largest(usual, wanted, lambda n: need.most_slots(n, need.chunk, kept).slots == experts)
    if longest is not None:
        return need.most_slots(longest, need.chunk, kept)
    for floor in (experts, max(fewest, experts // USEFUL_SHARE), fewest):
        chunk = need.chunk
        while chunk >= LEAST_CHUNK:
            if (choice := need.most_slots(usual, chunk, kept)).slots >= floor:
                return choice
            chunk //= 2
        last = floor == fewest
        if floor == experts and not last:
            continue
        fewer = _largest(0, kept, lambda n: need.most_slots(usual, LEAST_CHUNK, n).slots >= floor)  # noqa: B023
        if fewer is not None:
            return need.most_slots(usual, LEAST_CHUNK, fewer)
        if last or not asked:
            shortest = min(wanted, LEAST_CONTEXT)
            shorter = _largest(shortest, usual, lambda n: need.most_slots(n, LEAST_CHUNK, 0).slots >= floor)  # noqa: B023
            if shorter is not None:
                return need.most_slots(shorter, LEAST_CHUNK, 0)
    return None


def _notices(choice: _Choice, config: ModelConfig, budget: int, *, asked: int | None) -> tuple[str, ...]:
    """Return what is smaller than wanted, in a sentence each."""
    found = []
    longest = config.max_position_embeddings
    limit = f"{budget / 1e9:.2f} GB"
    if choice.slots < config.num_local_experts:
        found.append(
            f"{choice.slots} of {config.num_local_experts} experts a layer stay in memory and the others are read from "
            f"disk when they are chosen, to fit in {limit}"
        )
    if choice.context < (asked or longest):
        what = f"the model's {longest:,}" if asked is None else f"the {asked:,} asked for"
        why = "because the model has no more" if choice.context == longest else f"to fit in {limit}"
        found.append(f"the context holds {choice.context:,} tokens instead of {what}, {why}")
    kept = min(choice.context, AGENT_CONTEXT)
    if choice.kept < kept:
        found.append(
            f"the prefix cache holds {choice.kept:,} tokens instead of {kept:,}, because weights and the context leave "
            f"no more of {limit}"
        )
    return tuple(found)


def _stored(tensors: Mapping[str, TensorSpec]) -> int:
    """Return the bytes of a group of tensors in a model folder, with its fillers."""
    return sum(align(nbytes_of(spec.dtypes[0], spec.shape)) for spec in tensors.values())


def _held(tensors: Mapping[str, TensorSpec], backend: Backend) -> int:
    """Return the bytes of a group of tensors as ``model.weights`` holds it: its buffer, and a float32 copy of each
    tensor that is cast. The buffer is freed if all of them are."""
    stay = [_stays(name, spec, backend) for name, spec in tensors.items()]
    casts = sum(
        math.prod(spec.shape) * 4 for spec, as_stored in zip(tensors.values(), stay, strict=True) if not as_stored
    )
    return casts + (_stored(tensors) if any(stay) else 0)


def _stays(name: str, spec: TensorSpec, backend: Backend) -> bool:
    """Return whether a tensor is held as it is stored. If not, it is cast to float32."""
    matrix = len(spec.shape) > 1 and not name.endswith(".bias")
    return backend == "metal" or spec.dtypes[0] != "BF16" or (backend == "cpu" and matrix)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest number from ``low`` to ``high`` that fits, None if none does. All below one that fits do."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _rounded_up(nbytes: int) -> str:
    """Return gigabytes with two digits, not below ``nbytes``."""
    return f"{-(-nbytes // 10**7) / 100:.2f}"
