"""One layer's attention: full or over the sliding window, always with sinks."""

from collections.abc import Sequence

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import LayerCache
from gptoss_mlx.model.rope import attention_scale
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch as ops

Rope = tuple[mx.array, mx.array]


def attend(x: mx.array, weights: LayerWeights, cache: LayerCache, rope: Rope, config: ModelConfig) -> mx.array:
    """x [B, L, H] float32 to x plus its attention, adding L positions to the body of ``cache``: for prompts."""
    B, L, H = x.shape
    q, kv = _project(x.reshape(B * L, H), weights, rope, config)
    q = q.reshape(B, L, *q.shape[1:]).transpose(0, 2, 1, 3)
    keys, values = cache.append(kv.reshape(B, L, *kv.shape[1:]).transpose(2, 0, 3, 1, 4))
    attended = ops.attention(q, keys, values, weights.sinks, attention_scale(config), cache.window)
    return ops.output_residual(attended.reshape(B * L, -1), weights.o, x.reshape(B * L, H)).reshape(x.shape)


def attend_rows(
    x: mx.array, weights: LayerWeights, caches: Sequence[LayerCache], rope: Rope, config: ModelConfig
) -> mx.array:
    """x [T, H] float32, the same number of new positions of each of some sequences, the first's first. Each sequence
    attends over its own cache, into the tail of which they go. Projected together."""
    q, kv = _project(x, weights, rope, config)
    prepared, window = [cache.prepared() for cache in caches], caches[0].window
    attended, tails = ops.attention_with_caches(
        q, kv, prepared, weights.sinks, attention_scale(config), window, ops.input_dtype(kv.dtype)
    )
    for cache, tail in zip(caches, tails, strict=True):
        cache.advance(tail, len(x) // len(caches))
    return ops.output_residual(attended, weights.o, x)


def _project(x: mx.array, weights: LayerWeights, rope: Rope, config: ModelConfig) -> tuple[mx.array, mx.array]:
    """x [T, H] to q [T, N, D] float32 and kv [T, 2, M, D]."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return ops.norm_qkv_rope(x, weights.attn_norm, config.rms_norm_eps, weights.qkv, *rope, heads, kv_heads)
