"""What a user or this machine allows a model: ``--memory``, ``--context``, ``--prefix-disk``, and the resulting plan.

Joins ``machine``, which knows what is free, with ``engine.memory``, which knows what a model needs.
"""

import re
from dataclasses import replace

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
SIZE = 'a size such as "10GB" or "9.5 GiB"'


def memory_limit(given: int | str | None) -> int | None:
    """Return bytes, or None for "auto" and None. Raises UsageError for zero, a negative number or nonsense."""
    return None if given is None or given == "auto" else _size("memory", given, f"{SIZE}, or auto")


def disk_limit(given: int | str | None) -> int:
    """Return how many bytes what was read may take on disk, 0 for "off" and None. Raises UsageError as memory_limit
    does."""
    return 0 if given is None or given == "off" else _size("prefix-disk", given, f"{SIZE}, or off")


def _size(name: str, given: int | str, allowed: str) -> int:
    """Return a size in bytes."""
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?\s*", given, re.IGNORECASE)
        if found is None:
            raise UsageError(f"{name} is {quoted(given, 40)}; it must be {allowed}")
        number, unit, binary = found.groups()
        size = 1024 ** " kmgt".index(unit.lower()) if binary and unit else UNITS[unit.lower()]
        amount = int(float(number) * size)
    else:
        amount = whole(name, given, allowed=f"a number of bytes, {allowed}")
    if not 1 <= amount < 1 << 63:
        raise UsageError(f"{name} is {quoted(given, 40)}; it must be more than nothing: {allowed}")
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
