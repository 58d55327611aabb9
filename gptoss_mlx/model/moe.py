"""One layer's mixture of experts. Few rows read their experts one by one; many rows are grouped by expert."""

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch


def mix(x: mx.array, weights: LayerWeights, config: ModelConfig) -> mx.array:
    """Return x [T, H] float32 plus the weighted sum of each row's top experts."""
    k = config.num_experts_per_tok
    limit = config.swiglu_limit
    slots = weights.slots
    dtype = weights.gate_up.input_dtype
    normed, logits = launch.norm_router(x, weights.mlp_norm, config.rms_norm_eps, weights.router, dtype)
    if launch.each_row_for_itself(len(x)):
        activated = launch.expert_gate_up(normed, logits, slots, weights.gate_up, k, limit)
        return launch.expert_down_residual(activated, logits, slots, weights.down, x)
    return launch.expert_mlp_grouped(normed, logits, slots, weights.gate_up, weights.down, x, k=k, limit=limit)
