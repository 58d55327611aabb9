"""One layer's attention: full or over the sliding window, always with sinks."""

from collections.abc import Sequence

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import Layer, SlidingLayer
from gptoss_mlx.model.rope import attention_scale
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import reference as ops


def attend(
    x: mx.array, weights: LayerWeights, cache: Layer, rope: tuple[mx.array, mx.array], config: ModelConfig
) -> mx.array:
    """x [B, L, H] float32 to x plus its attention, extending ``cache`` by L positions."""
    q, k, v = _project(x, weights, rope, config)
    return ops.output_residual(_attend(q, k, v, weights, cache, config), weights.o, x)


def attend_rows(
    x: mx.array,
    weights: LayerWeights,
    caches: Sequence[Layer],
    rope: tuple[mx.array, mx.array],
    config: ModelConfig,
) -> mx.array:
    """x [1, T, H], one position each of T sequences, each attending over its own cache. Projected together."""
    q, k, v = _project(x, weights, rope, config)
    attended = [
        _attend(q[:, :, row : row + 1], k[:, :, row : row + 1], v[:, :, row : row + 1], weights, cache, config)
        for row, cache in enumerate(caches)
    ]
    return ops.output_residual(mx.concatenate(attended, axis=1), weights.o, x)


def _project(
    x: mx.array, weights: LayerWeights, rope: tuple[mx.array, mx.array], config: ModelConfig
) -> tuple[mx.array, mx.array, mx.array]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return ops.norm_qkv_rope(x, weights.attn_norm, config.rms_norm_eps, weights.qkv, *rope, heads, kv_heads)


def _attend(
    q: mx.array, k: mx.array, v: mx.array, weights: LayerWeights, cache: Layer, config: ModelConfig
) -> mx.array:
    keys, values = cache.extend(k, v)
    window = cache.window if isinstance(cache, SlidingLayer) else None
    return ops.attention(q, keys, values, weights.sinks, attention_scale(config), window)
