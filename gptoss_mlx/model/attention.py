"""One layer's attention: full or over the sliding window, always with sinks."""

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
    q, k, v = ops.norm_qkv_rope(
        x,
        weights.attn_norm,
        config.rms_norm_eps,
        weights.qkv,
        *rope,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
    )
    keys, values = cache.extend(k, v)
    window = cache.window if isinstance(cache, SlidingLayer) else None
    attended = ops.attention(q, keys, values, weights.sinks, attention_scale(config), window)
    return ops.output_residual(attended, weights.o, x)
