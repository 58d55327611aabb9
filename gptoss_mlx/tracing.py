"""What a model computes on its way through a text: router logits, chosen experts, the residual stream, what attention
gives to its sinks, how surprising each token is, and what could have followed.

Reads a text chunk by chunk, by the operations that a prompt is read with, and keeps what is asked for in numpy. Knows
one sequence of ids. Knows no text and draws nothing.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

import mlx.core as mx
import numpy as np

from gptoss_mlx.arguments import whole
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.sampling import NOT_FINITE
from gptoss_mlx.engine.scoring import scored
from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, UsageError, quoted
from gptoss_mlx.memory.caches import sequence_bytes
from gptoss_mlx.model.attention import Rope, attend_prompt, project
from gptoss_mlx.model.cache import LayerCache
from gptoss_mlx.model.moe import mix, route
from gptoss_mlx.model.rope import attention_scale, inverse_frequencies
from gptoss_mlx.model.weights import LayerWeights
from gptoss_mlx.scorer import ROWS
from metal_kernels import launch
from metal_kernels.reference import top_experts

What = Literal["router_logits", "experts", "hidden", "sink_mass", "logits", "candidates", "surprise"]
SMALL: tuple[What, ...] = ("router_logits", "experts", "sink_mass", "candidates", "surprise")
"""What takes little memory: all but the residual stream and the logits."""

SCORE_BYTES = 64 << 20
"""Attention scores that are alive at once while the sinks' share is computed."""


@dataclass(frozen=True)
class Trace:
    """What a model computed for L ids. An array that was not asked for is None.

    The first axis of the first five arrays counts ``layers``, numbers of layers from 0 on. What follows a token is at
    its own place: ``logits``, ``candidates`` and ``candidate_logprobs`` at place t are what the model expects after
    ``ids[: t + 1]``. ``surprise`` at place t is that of ``ids[t]``. Logarithms are natural.
    """

    ids: list[int]
    layers: tuple[int, ...]
    router_logits: np.ndarray | None = None  # [layers, L, E] float32, before any softmax
    experts: np.ndarray | None = None  # [layers, L, K] int32, the likeliest first
    expert_weights: np.ndarray | None = None  # [layers, L, K] float32, a row's sum is 1
    hidden: np.ndarray | None = None  # [layers, L, H] float32: the residual stream after the layer
    sink_mass: np.ndarray | None = None  # [layers, L, N] float32: the share of each head's softmax that its sink takes
    logits: np.ndarray | None = None  # [L, V] float32
    candidates: np.ndarray | None = None  # [L, top] int32, the likeliest first
    candidate_logprobs: np.ndarray | None = None  # [L, top] float32
    surprise: np.ndarray | None = None  # [L] float32: -log p of the id; NaN for the first, which nothing precedes

    @classmethod
    def joined(cls, parts: Sequence["Trace"]) -> "Trace":
        """Return consecutive parts of one text as one."""
        arrays = {}
        for name in (f.name for f in fields(cls) if f.name not in ("ids", "layers")):
            own = [getattr(part, name) for part in parts]
            if own[0] is not None:
                arrays[name] = np.concatenate(own, axis=1 if name in BY_LAYER else 0)
        return cls([id for part in parts for id in part.ids], parts[0].layers, **arrays)


BY_LAYER = ("router_logits", "experts", "expert_weights", "hidden", "sink_mass")


@dataclass
class Tracer:
    """Traces ``ids``, at most ``chunk`` of them at each :meth:`read`. ``layers`` None are all. ``top`` is how many
    candidates are wanted. Making one raises UsageError for what cannot be traced, and ContextLengthError. One that has
    raised something later is of no more use."""

    context: Context
    ids: list[int]
    layers: Sequence[int] | None = None
    what: Collection[str] = SMALL
    top: int = 5
    chunk: int = PREFILL_CHUNK
    _last: mx.array | None = field(default=None, init=False)  # [V]: the logits after what was read

    def __post_init__(self) -> None:
        config = self.context.model.config
        count = config.num_hidden_layers
        given = range(count) if self.layers is None else self.layers
        self.layers = tuple(whole("a layer", number, 0, "the number of one") for number in given)
        if isinstance(self.what, str):
            raise UsageError(f"what is {quoted(self.what)}; give a list, such as ['experts']")
        if unknown := [name for name in self.what if name not in get_args(What)]:
            raise UsageError(f"{quoted(unknown[0])} cannot be traced; these can: {', '.join(get_args(What))}")
        if not self.layers or self.layers != tuple(number for number in range(count) if number in self.layers):
            raise UsageError(f"layers are {quoted(self.layers)}; give numbers from 0 to {count - 1}, in rising order")
        self.top = whole("top", self.top, 1, "1 or more")
        if self.top > config.vocab_size:
            raise UsageError(f"top is {self.top}; it must be from 1 to {config.vocab_size}")
        if not self.ids or not all(0 <= id < config.vocab_size for id in self.ids):
            raise UsageError("the text is empty, or holds an id outside the vocabulary")
        if len(self.ids) > config.max_position_embeddings:
            raise ContextLengthError.of(len(self.ids), config.max_position_embeddings, "text")
        self._inverse_frequencies = mx.array(inverse_frequencies(config))

    @property
    def done(self) -> bool:
        """Return whether all has been traced."""
        return len(self.context.ids) >= len(self.ids)

    def read(self) -> Trace:
        """Trace one more chunk. Raises EngineError, and ModelFolderError where experts cannot be read."""
        begin = len(self.context.ids)
        given = self.ids[begin : begin + self.chunk]
        with self.context.undone_on_error():
            x, arrays = self._through_layers(given)
            if not math.isfinite(launch.witness(x.reshape(1, -1)).item()):  # type: ignore[arg-type]
                raise EngineError(NOT_FINITE)
            arrays |= self._after_layers(x, given, begin)
            mx.eval(self.context.cache.arrays())
            self.context.ids += given
        return Trace(given, tuple(self.layers or ()), **arrays)

    def _through_layers(self, given: list[int]) -> tuple[mx.array, dict[str, np.ndarray]]:
        """Read ids as ``Decoder`` reads a prompt. Return the stream [L, H], and what was seen of each layer."""
        model, cache = self.context.model, self.context.cache
        config = model.config
        paged = model.weights.paged
        seen: dict[str, list[mx.array]] = {name: [] for name in BY_LAYER}
        mx.synchronize()  # bodies are written in place only if no step in flight reads them
        rope = launch.rope_tables(self._inverse_frequencies, mx.arange(cache.length, cache.length + len(given)))
        x = launch.embed(mx.array(given), model.weights.embedding)
        for number, (weights, layer_cache) in enumerate(zip(model.weights.layers, cache.layers, strict=True)):
            wanted = number in (self.layers or ())
            if wanted and "sink_mass" in self.what:
                seen["sink_mass"].append(sink_mass(x, weights, layer_cache, rope, config))
            x = attend_prompt(x[None], weights, layer_cache, rope, config)[0]
            if wanted and {"router_logits", "experts"} & {*self.what}:
                logits = route(x, weights, config).logits
                chosen, shares = top_experts(logits, config.num_experts_per_tok)
                if "router_logits" in self.what:
                    seen["router_logits"].append(logits)
                if "experts" in self.what:
                    seen["experts"].append(chosen.astype(mx.int32))
                    seen["expert_weights"].append(shares)
            x = mix(x, weights, config, model.visit(number, None if paged is None else paged.prefill))
            if wanted and "hidden" in self.what:
                seen["hidden"].append(x)
            mx.eval(x, [arrays[-1] for arrays in seen.values() if arrays])
        return x, {name: np.stack([np.array(one) for one in arrays]) for name, arrays in seen.items() if arrays}

    def _after_layers(self, x: mx.array, given: list[int], begin: int) -> dict[str, np.ndarray]:
        """Return what the head says after each id, a few rows at a time."""
        if not {"logits", "candidates", "surprise"} & {*self.what}:
            return {}
        found: dict[str, list[np.ndarray]] = {"logits": [], "candidates": [], "candidate_logprobs": [], "surprise": []}
        for at in range(0, len(given), ROWS):
            logits = self.context.model.logits(x[at : at + ROWS])
            if "logits" in self.what:
                found["logits"].append(np.array(logits))
            for name, array in self._candidates(logits):
                found[name].append(array)
            if "surprise" in self.what:
                found["surprise"].append(self._surprise(logits, given[at : at + ROWS]))
        return {name: np.concatenate(arrays) for name, arrays in found.items() if arrays}

    def _candidates(self, logits: mx.array) -> Iterator[tuple[str, np.ndarray]]:
        if "candidates" not in self.what:
            return
        _, likeliest, values = map(np.array, scored(logits, mx.zeros(len(logits), mx.int32), self.top))
        order = np.argsort(-values, axis=-1, kind="stable")
        yield "candidates", np.take_along_axis(likeliest, order, axis=-1)
        yield "candidate_logprobs", np.take_along_axis(values, order, axis=-1)

    def _surprise(self, logits: mx.array, given: list[int]) -> np.ndarray:
        """Return the surprise of ids whose own logits are given; each is foretold by the row before it."""
        first = [math.nan] if self._last is None else [-scored(self._last[None], mx.array(given[:1]), 0).own.item()]
        self._last = logits[-1]
        mx.eval(self._last)
        rest = -scored(logits[:-1], mx.array(given[1:]), 0).own if len(given) > 1 else mx.zeros(0)
        return np.concatenate([np.array(first, np.float32), np.array(rest)])


def traced(tracer: Tracer, memory: int) -> Trace:
    """Return the whole trace. Raises MemoryBudgetError before any work where it takes more than ``memory`` bytes with
    the cache of its text, and what ``read`` raises."""
    model = tracer.context.model
    need = trace_bytes(tracer) + sequence_bytes(model.config, len(tracer.ids), model.weights.dtype)
    if need > memory:
        raise MemoryBudgetError(
            f"a trace of {len(tracer.ids):,} tokens needs {need / 1e9:.2f} GB, and the memory plan has "
            f"{memory / 1e9:.2f} GB for it; ask for fewer layers, for less of each, or for a shorter text"
        )
    parts = []
    while not tracer.done:
        parts.append(tracer.read())
    return Trace.joined(parts)


def trace_bytes(tracer: Tracer) -> int:
    """Return the most bytes of the arrays: the parts, and the whole they are joined to."""
    config = tracer.context.model.config
    layers = len(tracer.layers or ())
    values = {
        "router_logits": layers * config.num_local_experts,
        "experts": layers * 2 * config.num_experts_per_tok,
        "hidden": layers * config.hidden_size,
        "sink_mass": layers * config.num_attention_heads,
        "logits": config.vocab_size,
        "candidates": 2 * tracer.top,
        "surprise": 1,
    }
    return 2 * 4 * len(tracer.ids) * sum(values[name] for name in set(tracer.what))


def sink_mass(x: mx.array, weights: LayerWeights, cache: LayerCache, rope: Rope, config: ModelConfig) -> mx.array:
    """Return which share of each head's softmax its sink takes, [L, N] float32, for new positions x [L, H] that
    ``cache`` has not taken yet. Scores are computed in float32 from the keys as they are kept."""
    q, kv = project(x, weights, rope, config)
    L, N, D = q.shape
    keys = kv[:, 0].transpose(1, 0, 2)
    held = cache.held()
    if held is not None:
        keys = mx.concatenate([held[0, 0], keys], axis=1)
    M, P, _ = keys.shape
    keys = keys.astype(mx.float32).swapaxes(1, 2)[:, None]  # [M, 1, D, P]
    queries = (q * attention_scale(config)).reshape(L, M, N // M, D).transpose(1, 2, 0, 3)
    sinks = weights.sinks.astype(mx.float32).reshape(M, N // M, 1)
    rows = max(1, SCORE_BYTES // (4 * N * P))
    parts = []
    for at in range(0, L, rows):
        some = queries[:, :, at : at + rows]
        age = mx.arange(P - L + at, P - L + at + some.shape[2])[:, None] - mx.arange(P)
        seen = (age >= 0) & (age < (cache.window or P))
        total = mx.logsumexp(mx.where(seen, some @ keys, -mx.inf), axis=-1)  # [M, N / M, rows]
        parts.append(mx.sigmoid(sinks - total))
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=2).reshape(N, L).T
