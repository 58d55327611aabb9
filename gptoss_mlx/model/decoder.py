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
from metal_kernels import launch as ops


@dataclass
class Decoder:
    """A model: sizes and weights. Calling it reads tokens."""

    config: ModelConfig
    weights: Weights

    def __post_init__(self) -> None:
        self._inverse_frequencies = mx.array(inverse_frequencies(self.config))

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] after those in ``cache``, extending it; the residual stream [B, L, H] float32."""
        B, L = tokens.shape
        if B == 1 and L <= ops.FEW_ROWS:
            return self.decode(tokens, [cache])
        mx.synchronize()  # bodies are written in place once no step in flight reads them
        positions = mx.arange(cache.length, cache.length + L)
        rope = tables(self._inverse_frequencies, mx.tile(positions, B))
        x = ops.embed(tokens, self.weights.embedding)
        for weights, layer_cache in zip(self.weights.layers, cache.layers, strict=True):
            x = attend(x, weights, layer_cache, rope, self.config)
            x = mix(x.reshape(B * L, -1), weights, self.config).reshape(x.shape)
        return x

    def decode(self, tokens: mx.array, caches: Sequence[KVCache]) -> mx.array:
        """Read the next L of each of S sequences, tokens [S, L], extending each one's own cache; [S, L, H] float32.

        For few tokens: weights are read once for all rows, caches once for each. Attention is per sequence: no padding,
        so no row's result depends on another's.
        """
        S, L = tokens.shape
        for cache in caches:
            cache.prepare(L, self.config, self.weights.layers[0].qkv.dtype)
        positions = [cache.length + i for cache in caches for i in range(L)]
        rope = tables(self._inverse_frequencies, mx.array(positions))
        x = ops.embed(tokens.reshape(-1), self.weights.embedding)
        for number, weights in enumerate(self.weights.layers):
            x = attend_rows(x, weights, [cache.layers[number] for cache in caches], rope, self.config)
            x = mix(x, weights, self.config)
        return x.reshape(S, L, -1)

    def logits(self, x: mx.array) -> mx.array:
        """The residual stream [..., H] to vocabulary logits [..., V] float32."""
        rows = x.reshape(-1, x.shape[-1])
        out = ops.norm_head(rows, self.weights.norm, self.config.rms_norm_eps, self.weights.head)
        return out.reshape(*x.shape[:-1], -1)

    def greedy(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """The residual stream [T, H] to the likeliest ids [T] uint32, the lower of equals, and as witness [T] float32,
        finite where all of a row's logits are."""
        return ops.norm_head_argmax(x, self.weights.norm, self.config.rms_norm_eps, self.weights.head)
