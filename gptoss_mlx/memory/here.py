"""The plan of a model on this machine, within what the user allows it (``limits``).

Joins ``machine``, which knows what is free, with ``memory.plan``, which knows what a model needs.
"""

from dataclasses import replace

import mlx.core as mx

from gptoss_mlx import machine
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.memory.plan import MemoryPlan, plan
from gptoss_mlx.memory.transient import Backend
from metal_kernels import launch
from metal_kernels.cpu.library import cores


def backend_here() -> Backend:
    """Return where models run here."""
    if not launch.on_cpu():
        return "metal"
    return "cpu" if launch.where() == "cpu" else "plain"


def plan_here(
    config: ModelConfig,
    dense: str,
    *,
    memory: int | None = None,
    context: int | None = None,
    dtype: mx.Dtype | None = None,
) -> MemoryPlan:
    """Return the plan of a model on this machine. ``memory`` None is what can be spent. A notice says that a plan takes
    more than that. Raises MemoryBudgetError."""
    spendable = machine.spendable_bytes()
    found = plan(
        config,
        dense,
        spendable if memory is None else memory,
        backend_here(),
        context=context,
        dtype=dtype,
        memory=machine.memory_bytes(),
        process=machine.own_bytes(),
        threads=cores(),
    )
    if found.peak <= spendable:
        return found
    beyond = (
        f"the model may take {found.peak / 1e9:.2f} GB, and {spendable / 1e9:.2f} GB are free here; beyond that the "
        "system swaps, or ends the program"
    )
    return replace(found, notices=(beyond, *found.notices))
