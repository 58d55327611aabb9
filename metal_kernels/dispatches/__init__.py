"""How each shader is called: template values, grid, and the arrays in the order of its parameters.

Knows shapes and the shaders; ``launch`` knows where they run. Each function takes what its namesake in ``reference``
takes and returns None for arrays that no shader is made for. A name that ends in ``_combine`` is the second shader of
an operation. Rows per simdgroup are what counting in the emulator favours; they have not been tuned on a Mac yet.
"""

from metal_kernels.dispatches.decode_attention import (
    INSIDE,
    SPLIT_KEYS,
    decode_attention,
    decode_attention_combine,
    is_split,
)
from metal_kernels.dispatches.dense import (
    norm_head,
    norm_head_argmax,
    norm_head_argmax_combine,
    norm_qkv_rope,
    output_residual,
)
from metal_kernels.dispatches.dispatch import FEW_ROWS, FLOATS, FOLDER, Dispatch, name
from metal_kernels.dispatches.experts import expert_down_residual, expert_gate_up, norm_router
from metal_kernels.dispatches.grouped import grouped_sum, grouped_swiglu

__all__ = [
    "FEW_ROWS",
    "FLOATS",
    "FOLDER",
    "INSIDE",
    "SPLIT_KEYS",
    "Dispatch",
    "decode_attention",
    "decode_attention_combine",
    "expert_down_residual",
    "expert_gate_up",
    "grouped_sum",
    "grouped_swiglu",
    "is_split",
    "name",
    "norm_head",
    "norm_head_argmax",
    "norm_head_argmax_combine",
    "norm_qkv_rope",
    "norm_router",
    "output_residual",
]
