"""Random calls of each operation, and what it makes of them by definition, in float64.

A trial is found again by its operation and number. Sizes lie around those at which the library goes another way: rows
of a tile and of a task, pieces of columns, keys of a step, sequences that are split.
"""

from collections.abc import Callable

from tests.metal_kernels.cpu.trials import attention, dense, experts
from tests.metal_kernels.cpu.trials.common import Draw, Trial

OPERATIONS = (
    *(dense.norm_qkv_rope, attention.prefill_attention, attention.decode_attention, dense.output_residual),
    *(dense.norm_router, experts.expert_gate_up, experts.expert_down_residual, experts.expert_mlp_grouped),
    *(dense.norm_head, dense.norm_head_argmax, dense.embed, dense.rope_tables, experts.expert_mlp_in_passes),
)
"""A function for each operation of the library, of its name."""


def trial(operation: Callable[[Draw], Trial], number: int, seed: int) -> Trial:
    """Return one of the operation's trials, always the same one."""
    return operation(Draw(seed, OPERATIONS.index(operation), number))
