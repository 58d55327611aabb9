"""The gpt-oss decoder, top-down: embed, then in every layer attend and mix, then norm and head.

Knows only shapes and order. The maths is in ``metal_kernels``, sizes are in ``config``, memory is in ``cache``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.attention import attend_decoding, attend_prompt
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.moe import mix
from gptoss_mlx.model.rope import inverse_frequencies
from gptoss_mlx.model.weights import Weights
from metal_kernels import launch


@dataclass
class Decoder:
    """A model: its sizes and weights."""

    config: ModelConfig
    weights: Weights

    def __post_init__(self) -> None:
        self._inverse_frequencies = mx.array(inverse_frequencies(self.config))

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] after those in ``cache`` and add them to it. Return the residual stream [B, L, H]
        float32."""
        B, L = tokens.shape
        if B == 1 and L <= launch.FEW_ROWS:
            return self.decode(tokens.reshape(-1), [cache]).reshape(B, L, -1)
        mx.synchronize()  # bodies are written in place only if no step in flight reads them
        positions = mx.arange(cache.length, cache.length + L)
        rope = launch.rope_tables(self._inverse_frequencies, mx.tile(positions, B))
        x = launch.embed(tokens.reshape(-1), self.weights.embedding).reshape(B, L, -1)
        for weights, layer_cache in zip(self.weights.layers, cache.layers, strict=True):
            x = attend_prompt(x, weights, layer_cache, rope, self.config)
            x = mix(x.reshape(B * L, -1), weights, self.config).reshape(x.shape)
        return x

    def decode(self, tokens: mx.array, caches: Sequence[KVCache]) -> mx.array:
        """Read the same number of next tokens of each sequence, those of the first one first in tokens [T], and add
        them to each one's cache.

        Returns the residual stream [T, H] float32. This is for few tokens: each cache is read once for each of its
        rows, and weights once for each row or once for all, as the operation and the device have it. Attention has no
        padding, so no row depends on another.
        """
        count = len(tokens) // len(caches)
        for cache in caches:
            cache.prepare(count, self.config, self.weights.dtype)
        positions = [cache.length + i for cache in caches for i in range(count)]
        rope = launch.rope_tables(self._inverse_frequencies, mx.array(positions))
        x = launch.embed(tokens, self.weights.embedding)
        for number, weights in enumerate(self.weights.layers):
            x = attend_decoding(x, weights, [cache.layers[number] for cache in caches], rope, self.config)
            x = mix(x, weights, self.config)
        return x

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
