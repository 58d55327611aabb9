"""How each shader is called: template values, grid, and the arrays in its parameters' order.

Knows shapes and the shaders; not where they run (``launch``). Each function takes what its twin in ``reference`` takes
and returns None for arrays no shader is made for. Rows per simdgroup are what counting in the emulator favours; no Mac
has tuned them yet.
"""

from metal_kernels.dispatches.attention import SPLIT_KEYS, attention_combine, attention_with_cache, is_split
from metal_kernels.dispatches.dense import best_token, norm_head, norm_head_best, norm_qkv_rope, output_residual
from metal_kernels.dispatches.experts import expert_down_residual, expert_gate_up, norm_router
from metal_kernels.dispatches.plan import FEW_ROWS, FLOATS, FOLDER, Dispatch, name

__all__ = [
    "FEW_ROWS",
    "FLOATS",
    "FOLDER",
    "SPLIT_KEYS",
    "Dispatch",
    "attention_combine",
    "attention_with_cache",
    "best_token",
    "expert_down_residual",
    "expert_gate_up",
    "is_split",
    "name",
    "norm_head",
    "norm_head_best",
    "norm_qkv_rope",
    "norm_router",
    "output_residual",
]
