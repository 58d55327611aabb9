"""The gpt-oss decoder, top-down: embed, then in every layer attend and mix, then norm and head.

With experts in slots a decode step may run ahead on those that are there. See ``experts``.

Knows only shapes and order. The maths is in ``metal_kernels``, sizes are in ``config``, memory is in ``cache``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.attention import Rope, attend_decoding, attend_prompt
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.experts import Visit
from gptoss_mlx.model.moe import Routed, mix, route, through_slots
from gptoss_mlx.model.rope import inverse_frequencies
from gptoss_mlx.model.slots import Tally
from gptoss_mlx.model.weights import Weights
from metal_kernels import launch


@dataclass
class Decoder:
    """A model: its sizes and weights."""

    config: ModelConfig
    weights: Weights

    def __post_init__(self) -> None:
        self._inverse_frequencies = mx.array(inverse_frequencies(self.config))

    @property
    def may_miss(self) -> bool:
        """Return whether a step may want experts that are not in memory. The host must look before another follows."""
        return self.weights.paged is not None and not self.weights.paged.complete

    def cache(self) -> KVCache:
        """Return a cache that has seen nothing."""
        return KVCache.empty(self.config)

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] after those in ``cache`` and add them to it. Return the residual stream [B, L, H]
        float32."""
        x = launch.embed(tokens.reshape(-1), self.weights.embedding)
        return self.read(x.reshape(*tokens.shape, -1), cache)

    def read(self, x: mx.array, cache: KVCache) -> mx.array:
        """Pass the residual stream x [B, L, H] float32 of new positions through all layers, and return it."""
        B, L, H = x.shape
        paged = self.weights.paged
        tally = paged.prefill if paged is not None else None
        if B == 1 and L <= launch.FEW_ROWS:
            step = self.step(x.reshape(L, H), [cache], tally)
            while step.repeat():
                pass
            return step.x.reshape(B, L, H)
        mx.synchronize()  # bodies are written in place only if no step in flight reads them
        positions = mx.arange(cache.length, cache.length + L)
        rope = launch.rope_tables(self._inverse_frequencies, mx.tile(positions, B))
        for number, (weights, layer_cache) in enumerate(zip(self.weights.layers, cache.layers, strict=True)):
            x = attend_prompt(x, weights, layer_cache, rope, self.config)
            x = mix(x.reshape(B * L, -1), weights, self.config, self.visit(number, tally)).reshape(x.shape)
        return x

    def decode(self, tokens: mx.array, caches: Sequence[KVCache]) -> "Step":
        """Read the same number of next tokens of each sequence, those of the first one first in tokens [T], and add
        them to each one's cache.

        This is for few tokens: each cache is read once for each of its rows, and weights once for each row or once for
        all, as the operation and the device have it. Attention has no padding, so no row depends on another.
        """
        return self.step(launch.embed(tokens, self.weights.embedding), caches)

    def step(self, x: mx.array, caches: Sequence[KVCache], tally: Tally | None = None) -> "Step":
        """Pass the residual stream x [T, H] float32 of such tokens through all layers. ``tally`` counts what paging
        costs, by default as that of decoding."""
        count = len(x) // len(caches)
        for cache in caches:
            cache.prepare(count, self.config, self.weights.dtype)
        positions = [cache.length + i for cache in caches for i in range(count)]
        rope = launch.rope_tables(self._inverse_frequencies, mx.array(positions))
        if tally is None and self.weights.paged is not None:
            tally = self.weights.paged.decode
        return Step(self, caches, rope, count, x, tally)

    def visit(self, layer: int, tally: Tally | None) -> Visit | None:
        """Return one layer's slots, to fetch what it chooses, or None where every expert is in memory."""
        paged = self.weights.paged
        return None if paged is None or paged.complete or tally is None else Visit(paged, layer, tally)

    def logits(self, x: mx.array) -> mx.array:
        """Project the residual stream [..., H] to vocabulary logits [..., V] float32."""
        # Rows that are a list already stay as they are: on the CPU computing a view takes longer than a small layer.
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        out = launch.norm_head(rows, self.weights.norm, self.config.rms_norm_eps, self.weights.head)
        return out if x.ndim == 2 else out.reshape(*x.shape[:-1], -1)

    def greedy(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Return the likeliest id of each row of the residual stream [T, H], and a witness: [T] uint32 and [T] float32.

        Of equally likely ids it is the lower one. A witness is finite where all logits of the row are.
        """
        return launch.norm_head_argmax(x, self.weights.norm, self.config.rms_norm_eps, self.weights.head)


@dataclass(eq=False)
class Step:
    """A decode step of ``each`` positions of every one of ``caches``, and its residual stream ``x`` [T, H] float32.

    Where experts are paged, ``x`` holds only once :meth:`repeat` returns False. ``ahead`` says that it runs ahead of
    its experts.
    """

    _model: Decoder
    _caches: Sequence[KVCache]
    _rope: Rope
    _each: int
    x: mx.array
    _tally: Tally | None

    def __post_init__(self) -> None:
        paged = self._model.weights.paged
        self._paged = paged if paged is not None and not paged.complete and paged.can_run_ahead(len(self.x)) else None
        self.ahead = self._paged is not None and self._paged.ahead[len(self.x)].choose()
        self._routed: list[Routed] = []
        self._settled = 0  # layers whose choice has been read back, and whose experts were there
        self._begun = time.perf_counter()
        self._run()

    def _run(self) -> None:
        """Go through the layers after those that have been routed."""
        model = self._model
        for number in range(len(self._routed), len(model.weights.layers)):
            weights = model.weights.layers[number]
            layers = [cache.layers[number] for cache in self._caches]
            x = attend_decoding(self.x, weights, layers, self._rope, model.config)
            if not self.ahead:
                self.x = mix(x, weights, model.config, model.visit(number, self._tally))
                continue
            self._routed.append(route(x, weights, model.config))
            self.x = through_slots(self._routed[-1], weights, model.config)

    @property
    def pending(self) -> list[mx.array]:
        """Return what :meth:`repeat` waits for, so that a caller can wait for it and for its own at once."""
        return [self.x, *(routed.logits for routed in self._routed[self._settled :])]

    def repeat(self) -> bool:
        """Wait for the step. If it ran ahead, read back which experts were chosen; if some were absent, read them and
        compute the step again from the first layer that missed one. Return whether that was so; then call it again.

        Raises ModelFolderError where they cannot be read. The caches must then be rewound, as after any error.
        """
        if self._paged is None or self._tally is None:
            return False
        mx.eval(self.pending)
        first = None
        if self.ahead:
            logits = [routed.logits for routed in self._routed[self._settled :]]
            first = self._paged.first_miss(self._settled, logits, self._tally)
        if first is None:
            self._paged.ahead[len(self.x)].measured(self.ahead, 1 / (time.perf_counter() - self._begun))
            self._paged = None
            return False
        for cache in self._caches:
            for layer in cache.layers[first + 1 :]:
                layer.retract(self._each)
        del self._routed[first + 1 :]
        self._settled = first + 1
        self.x = through_slots(self._routed[first], self._model.weights.layers[first], self._model.config)
        self._run()
        return True
