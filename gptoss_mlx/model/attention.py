"""One layer's attention: full or over the sliding window, always with sinks.

Knows the order of its operations and which rows go into which cache.
"""

from collections.abc import Sequence

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import LayerCache
from gptoss_mlx.model.rope import attention_scale
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch
from metal_kernels.operands import Attention

Rope = tuple[mx.array, mx.array]


def attend_prompt(x: mx.array, weights: LayerWeights, cache: LayerCache, rope: Rope, config: ModelConfig) -> mx.array:
    """Return x [B, L, H] float32 plus its attention. Add the L positions to the body of ``cache``."""
    B, L, H = x.shape
    q, kv = project(x.reshape(B * L, H), weights, rope, config)
    q = q.reshape(B, L, *q.shape[1:]).transpose(0, 2, 1, 3)
    keys, values = cache.append(kv.reshape(B, L, *kv.shape[1:]).transpose(2, 0, 3, 1, 4))
    attended = launch.prefill_attention(q, keys, values, _layer(weights, cache, config))
    return launch.output_residual(attended.reshape(B * L, -1), weights.o, x.reshape(B * L, H)).reshape(x.shape)


def attend_decoding(
    x: mx.array, weights: LayerWeights, caches: Sequence[LayerCache], rope: Rope, config: ModelConfig
) -> mx.array:
    """Return x [T, H] float32 plus its attention. Add the new positions to the tails of ``caches``.

    x holds the same number of new positions of each sequence, the first sequence first. All rows are projected
    together; each sequence attends over its own cache.
    """
    q, kv = project(x, weights, rope, config)
    layer = _layer(weights, caches[0], config)
    views = [cache.view() for cache in caches]
    attended, tails = launch.decode_attention(q, kv, views, layer, launch.input_dtype(kv.dtype))
    for cache, tail in zip(caches, tails, strict=True):
        cache.advance(tail, len(x) // len(caches))
    return launch.output_residual(attended, weights.o, x)


def _layer(weights: LayerWeights, cache: LayerCache, config: ModelConfig) -> Attention:
    return Attention(weights.sinks, attention_scale(config), cache.window)


def project(x: mx.array, weights: LayerWeights, rope: Rope, config: ModelConfig) -> tuple[mx.array, mx.array]:
    """Project x [T, H] to q [T, N, D] float32 and kv [T, 2, M, D]."""
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads
    norm = weights.attn_norm
    return launch.norm_qkv_rope(x, norm, config.rms_norm_eps, weights.qkv, *rope, heads=heads, kv_heads=kv_heads)
