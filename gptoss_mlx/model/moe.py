"""One layer's mixture of experts: few rows read the experts they want, many rows are grouped by expert."""

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch as ops


def mix(x: mx.array, weights: LayerWeights, config: ModelConfig) -> mx.array:
    """x [T, H] float32 to x plus the weighted sum of each row's top experts."""
    k, limit, slots = config.num_experts_per_tok, config.swiglu_limit, weights.slots
    dtype = weights.gate_up.input_dtype
    normed, logits = ops.norm_router(x, weights.mlp_norm, config.rms_norm_eps, weights.router, dtype)
    if ops.each_row_for_itself(len(x), k, len(slots)):
        activated = ops.expert_gate_up(normed, logits, slots, weights.gate_up, k, limit)
        return ops.expert_down_residual(activated, logits, slots, weights.down, x)
    return ops.expert_mlp_grouped(normed, logits, slots, weights.gate_up, weights.down, x, k, limit)
