"""The gpt-oss decoder, top-down: embed, then in every layer attend and mix, then norm and head.

Knows shapes and order only. The maths is in ``metal_kernels``, sizes in ``config``, memory in ``cache``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.attention import attend, attend_rows
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.moe import mix
from gptoss_mlx.model.rope import inverse_frequencies, tables
from gptoss_mlx.model.weights import Weights
from metal_kernels import reference as ops


@dataclass
class Decoder:
    """A model: sizes and weights. Calling it reads tokens."""

    config: ModelConfig
    weights: Weights

    def __post_init__(self) -> None:
        self._inverse_frequencies = mx.array(inverse_frequencies(self.config))

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] after those in ``cache``, extending it; the residual stream [B, L, H] float32."""
        positions = mx.arange(cache.length, cache.length + tokens.shape[1])
        rope = tables(self._inverse_frequencies, positions)
        x = ops.embed(tokens, self.weights.embedding)
        for weights, layer_cache in zip(self.weights.layers, cache.layers, strict=True):
            x = attend(x, weights, layer_cache, rope, self.config)
            x = mix(x, weights, self.config)
        return x

    def decode_rows(self, tokens: mx.array, caches: Sequence[KVCache]) -> mx.array:
        """Read one token for each of T sequences, tokens [T], extending each one's own cache; [1, T, H] float32.

        Weights are read once for all rows. Attention is per row: no padding, so no row's result depends on another's.
        """
        rope = tables(self._inverse_frequencies, mx.array([cache.length for cache in caches]))
        x = ops.embed(tokens[None], self.weights.embedding)
        for number, weights in enumerate(self.weights.layers):
            x = attend_rows(x, weights, [cache.layers[number] for cache in caches], rope, self.config)
            x = mix(x, weights, self.config)
        return x

    def logits(self, x: mx.array) -> mx.array:
        """The residual stream [B, L, H] to vocabulary logits [B, L, V] float32."""
        return ops.norm_head(x, self.weights.norm, self.config.rms_norm_eps, self.weights.head).astype(mx.float32)
