"""The numbers of the documentation's pictures and tables, by the code that decides them. Draws nothing.

A Mac's are those of the memory plan, which is a prediction.
"""

from dataclasses import dataclass

import mlx.core as mx

from gptoss_mlx.config import FULL, PUBLISHED, ModelConfig
from gptoss_mlx.machine import MARGIN
from gptoss_mlx.memory.plan import MemoryPlan, plan
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import nbytes_of
from metal_kernels.dispatches.decode_attention import INSIDE, SPLIT_KEYS

MB, GB = 10**6, 10**9
SIXTEEN = 16 << 30
KEYS_OF_ONE = INSIDE * SPLIT_KEYS
"""Keys up to which attention is one dispatch. With more it is two."""

OPERATIONS = {
    "norm_qkv_rope": ("attn_norm", "qkv"),
    "decode_attention": ("sinks",),
    "output_residual": ("o",),
    "norm_router": ("mlp_norm", "router"),
    "expert_gate_up": ("experts.gate_up",),
    "expert_down_residual": ("experts.down",),
}
"""The operations of a layer in a decode step, in order, and which tensors each reads."""


@dataclass(frozen=True)
class Held:
    """A model on a Mac: its plan, and for what context it was asked, None for as many tokens as fit."""

    name: str
    asked: int | None
    plan: MemoryPlan

    @property
    def experts(self) -> str:
        """Return how many experts of a layer are in memory."""
        all_of_them = PUBLISHED[self.name].num_local_experts
        return f"all {all_of_them}" if self.plan.slots is None else f"{self.plan.slots} of {all_of_them}"

    @property
    def groups(self) -> dict[str, int]:
        """Return the bytes of the plan's parts that count against the budget, by what a reader calls them."""
        found = self.plan
        expert = "experts resident" if found.slots is None else "experts paged"
        return {
            "experts": found[expert],
            "attention, router, head": found["attention"] + found["head"],
            "this conversation": found["caches"],
            "prefix cache": found["prefix cache"],
            "a step": found["transient"] + found["allocator cache"],
        }


def default_budget(memory: int) -> int:
    """Return the bytes that a Mac with ``memory`` bytes allows a model by default: of two thirds of them, from 48 GB on
    of three quarters, what ``machine.MARGIN`` leaves."""
    return int(memory * (2 / 3 if memory < 48 << 30 else 3 / 4) * (1 - MARGIN))


def on_sixteen() -> list[Held]:
    """Return what a Mac with 16 GB holds of the published models."""
    asked: list[tuple[str, int | None]] = [("20b", None), ("20b", 8192), ("120b", None)]
    budget = default_budget(SIXTEEN)
    plans = [plan(PUBLISHED[name], "q8", budget, "metal", context=context, memory=SIXTEEN) for name, context in asked]
    return [Held(name, context, found) for (name, context), found in zip(asked, plans, strict=True)]


def read_by(operation: str, config: ModelConfig) -> int:
    """Return the bytes of weights that one row reads in one layer, q8: of experts those of the K chosen ones."""
    shard = layout.shards(config, "q8")[1]
    stems = tuple(f"layers.0.{stem}." for stem in OPERATIONS[operation])
    bare = {f"layers.0.{stem}" for stem in OPERATIONS[operation]}
    found = 0
    for name, spec in shard.tensors.items():
        if name.startswith(stems) or name in bare:
            share = config.num_experts_per_tok / config.num_local_experts if layout.is_expert(name) else 1
            found += int(nbytes_of(spec.dtypes[0], spec.shape) * share)
    return found


def key_bytes(config: ModelConfig) -> int:
    """Return the bytes of a position's keys and values in one layer, in bfloat16."""
    return 2 * config.num_key_value_heads * config.head_dim * mx.bfloat16.size


def head_bytes(config: ModelConfig) -> int:
    """Return the bytes of the final norm and the head, q8."""
    return sum(nbytes_of(spec.dtypes[0], spec.shape) for spec in layout.shards(config, "q8")[-1].tensors.values())


def token_bytes(config: ModelConfig, keys: int) -> int:
    """Return the bytes that a decoded token reads after ``keys`` positions: all weights that it uses, and the cache."""
    weights = config.num_hidden_layers * sum(read_by(operation, config) for operation in OPERATIONS)
    full = config.layer_types.count(FULL)
    seen = full * keys + (config.num_hidden_layers - full) * min(keys, config.sliding_window - 1)
    return weights + seen * key_bytes(config) + head_bytes(config)
