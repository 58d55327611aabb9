"""One layer's mixture of experts. Few rows read their experts one by one; many rows are grouped by expert."""

from typing import NamedTuple

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.experts import Visit
from gptoss_mlx.model.weights import LayerWeights
from metal_kernels import launch


class Routed(NamedTuple):
    """Rows that know their experts: the stream x [T, H] float32, the rows normed for the experts, and the raw router
    logits [T, E] float32."""

    x: mx.array
    normed: mx.array
    logits: mx.array

    def rows(self, of: list[int]) -> "Routed":
        """Return some of the rows."""
        if of == list(range(len(self.x))):
            return self
        own = mx.array(of)
        return Routed(self.x[own], self.normed[own], self.logits[own])


def route(x: mx.array, weights: LayerWeights, config: ModelConfig) -> Routed:
    """Norm x [T, H] float32 and choose each row's experts."""
    dtype = weights.gate_up.input_dtype
    return Routed(x, *launch.norm_router(x, weights.mlp_norm, config.rms_norm_eps, weights.router, dtype))


def through_slots(routed: Routed, weights: LayerWeights, config: ModelConfig) -> mx.array:
    """Return x plus the weighted sum of each row's experts, which all are where ``weights.slots`` says."""
    x, normed, logits = routed
    k = config.num_experts_per_tok
    limit = config.swiglu_limit
    slots = weights.slots
    if launch.each_row_for_itself(len(x)):
        activated = launch.expert_gate_up(normed, logits, slots, weights.gate_up, k, limit)
        return launch.expert_down_residual(activated, logits, slots, weights.down, x)
    return launch.expert_mlp_grouped(normed, logits, slots, weights.gate_up, weights.down, x, k=k, limit=limit)


def mix(x: mx.array, weights: LayerWeights, config: ModelConfig, visit: Visit | None = None) -> mx.array:
    """Return x [T, H] float32 plus the weighted sum of each row's top experts. With ``visit`` they are fetched first,
    and if they do not fit into the slots, rows or experts go one part after another."""
    routed = route(x, weights, config)
    if visit is None:
        return through_slots(routed, weights, config)
    if launch.each_row_for_itself(len(x)):
        parts = []
        order: list[int] = []
        for rows in visit.row_groups(routed.logits):
            parts.append(through_slots(routed.rows(rows), weights, config))
            mx.async_eval(parts[-1])
            order += rows
        return mx.concatenate(parts)[mx.argsort(mx.array(order))] if len(parts) > 1 else parts[0]
    k = config.num_experts_per_tok
    both = weights.gate_up, weights.down
    passes = visit.passes(routed.logits)
    return launch.expert_mlp_in_passes(routed.normed, routed.logits, passes, *both, x, k=k, limit=config.swiglu_limit)
