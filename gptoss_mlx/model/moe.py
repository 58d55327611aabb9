"""One layer's mixture of experts: few rows read the experts they want, many rows are grouped by expert."""

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch as ops


def mix(x: mx.array, weights: LayerWeights, config: ModelConfig) -> mx.array:
    """x [B, L, H] float32 to x plus the weighted sum of each row's top experts."""
    rows = x.reshape(-1, x.shape[-1])
    k, limit, slots = config.num_experts_per_tok, config.swiglu_limit, weights.slots
    dtype = weights.gate_up.input_dtype
    normed, logits = ops.norm_router(rows, weights.mlp_norm, config.rms_norm_eps, weights.router, dtype)
    if len(rows) <= ops.FEW_ROWS:
        activated = ops.expert_gate_up(normed, logits, slots, weights.gate_up, k, limit)
        out = ops.expert_down_residual(activated, logits, slots, weights.down, rows)
    else:
        out = ops.expert_mlp_grouped(normed, logits, slots, weights.gate_up, weights.down, rows, k, limit)
    return out.reshape(x.shape)
