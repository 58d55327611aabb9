"""What a user or this machine allows a model: ``--memory`` and ``--context``, and the plan that follows from them.

Joins ``machine``, which knows what is free, with ``engine.memory``, which knows what a model needs.
"""

import re

import mlx.core as mx

from gptoss_mlx import machine
from gptoss_mlx.arguments import whole
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.memory import MemoryPlan, plan
from gptoss_mlx.engine.transient import Backend
from gptoss_mlx.errors import UsageError, quoted
from metal_kernels import launch
from metal_kernels.cpu.library import cores

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
MEMORY = 'a size such as "10GB" or "9.5 GiB", or auto'


def memory_limit(given: int | str | None) -> int | None:
    """Return bytes, or None for "auto" and None. Raises UsageError for zero, a negative number or nonsense."""
    if given is None or given == "auto":
        return None
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?\s*", given, re.IGNORECASE)
        if found is None:
            raise UsageError(f"memory is {quoted(given, 40)}; it must be {MEMORY}")
        number, unit, binary = found.groups()
        size = 1024 ** " kmgt".index(unit.lower()) if binary and unit else UNITS[unit.lower()]
        amount = int(float(number) * size)
    else:
        amount = whole("memory", given, allowed=f"a number of bytes, {MEMORY}")
    if not 1 <= amount < 1 << 63:
        raise UsageError(f"memory is {quoted(given, 40)}; it must be more than nothing: {MEMORY}")
    return amount


def context_limit(given: int | None) -> int | None:
    """Return a number of tokens, or None for as many as fit. Raises UsageError for zero, a negative number or
    nonsense."""
    return None if given is None else whole("context", given, 1, "a number of tokens, 1 or more")


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
    """Return the plan of a model on this machine. ``memory`` None is what can be spent. Raises MemoryBudgetError."""
    return plan(
        config,
        dense,
        machine.spendable_bytes() if memory is None else memory,
        backend_here(),
        context=context,
        dtype=dtype,
        memory=machine.memory_bytes(),
        process=machine.own_bytes(),
        threads=cores(),
    )
