"""The launches of norm + router and of the experts."""

import math

import mlx.core as mx

from metal_kernels.dispatches.dispatch import FEW_ROWS, FLOATS, ArraySpec, Dispatch, all_of, bits, dispatch, made_once
from metal_kernels.operands import Dense, Experts, input_dtype
from metal_kernels.source import CONSTANT_BELOW

MAX_CHOICES = 8
"""Most experts a row may choose."""
ROUTER_SIMDGROUPS = 4
"""Simdgroups that share one expert's column sum in norm_router."""
GATE_UP_SIMDGROUPS = 2
"""Simdgroups to a threadgroup of expert_gate_up."""
GATE_UP_ROWS = 8
"""Matrix rows to a simdgroup of expert_gate_up. All of a lane's codes for them are in flight at once."""
DOWN_ROWS = 10
"""The same of expert_down_residual, where they divide the matrix: 2880 rows. As many need a quarter fewer activation
loads than half of them."""


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> Dispatch | None:
    if router.bias is None or router.scales is not None:
        return None
    inputs = (x, norm, router.weight, router.bias)
    return _norm_router(inputs, eps, dtype)


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> Dispatch | None:
    inputs = (normed, logits, slots, *_bias_first(experts))
    return _expert_gate_up(inputs, k, limit)


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> Dispatch | None:
    inputs = (activated, logits, slots, *_bias_first(experts), residual)
    return _expert_down_residual(inputs)


def _bias_first(experts: Experts) -> tuple[mx.array, mx.array, mx.array]:
    """Return an expert projection's arrays, the smallest first.

    All three are slices of one buffer. MLX counts a buffer by the elements of the slice it meets first, and commits
    after some 40 million. With a weight first, each projection would be a commit.
    """
    return experts.bias, experts.weight, experts.scales


@made_once
def _norm_router(inputs: tuple[ArraySpec, ...], eps: float, dtype: mx.Dtype) -> Dispatch | None:
    x, norm, router, bias = inputs
    rows, columns = x.shape
    experts = router.shape[0]
    if not _fits(rows, columns, experts) or not all_of(FLOATS, x, norm, router) or dtype not in FLOATS:
        return None
    if bias.dtype != router.dtype:
        return None
    types = {"X": x.dtype, "N": norm.dtype, "W": router.dtype, "T": dtype}
    numbers = {"COLUMNS": columns, "EXPERTS": experts, "SIMDGROUPS": ROUTER_SIMDGROUPS, "EPSILON_BITS": bits(eps)}
    outputs = [((rows, *_chunk_major(columns, dtype)), dtype), ((rows, experts), mx.float32)]
    width = 32 * ROUTER_SIMDGROUPS
    return dispatch("norm_router", types, numbers, outputs, (width * experts, rows, 1), (width, 1))


@made_once
def _expert_gate_up(inputs: tuple[ArraySpec, ...], k: int, limit: float) -> Dispatch | None:
    normed, logits, _, bias, weight, _ = inputs
    if len(normed.shape) != 4:
        return None
    rows = normed.shape[0]
    columns = math.prod(normed.shape[1:])
    outputs = weight.shape[1] // 2
    if not _expert_fits(inputs, rows, columns, outputs, k):
        return None
    dtype = input_dtype(bias.dtype)
    types = {"T": normed.dtype, "B": bias.dtype, "O": dtype}
    numbers = {
        "COLUMNS": columns,
        "OUTPUTS": outputs,
        "EXPERTS": logits.shape[1],
        "K": k,
        "ROWS": GATE_UP_ROWS,
        "BATCH": GATE_UP_ROWS,
        "SIMDGROUPS": GATE_UP_SIMDGROUPS,
        "LIMIT_BITS": bits(limit),
    }
    activated = ((rows, k, *_chunk_major(outputs, dtype)), dtype)
    width = 32 * GATE_UP_SIMDGROUPS
    grid = (width * k, rows, 2 * outputs // (GATE_UP_ROWS * GATE_UP_SIMDGROUPS))
    return dispatch("expert_gate_up", types, numbers, [activated], grid, (width, 1))


@made_once
def _expert_down_residual(inputs: tuple[ArraySpec, ...]) -> Dispatch | None:
    activated, logits, _, bias, weight, _, residual = inputs
    if len(activated.shape) != 5 or residual.dtype not in FLOATS:
        return None
    rows, k, *chunks = activated.shape
    columns = math.prod(chunks)
    outputs = weight.shape[1]
    if not _expert_fits(inputs[:-1], rows, columns, outputs, k):
        return None
    tile = DOWN_ROWS if outputs % DOWN_ROWS == 0 else 4
    types = {"T": activated.dtype, "B": bias.dtype, "X": residual.dtype}
    numbers = {"COLUMNS": columns, "OUTPUTS": outputs, "EXPERTS": logits.shape[1], "K": k, "ROWS": tile, "BATCH": tile}
    out = ((rows, outputs), residual.dtype)
    return dispatch("expert_down_residual", types, numbers, [out], (32 * k * rows, outputs // tile, 1), (32 * k, 1))


def _chunk_major(columns: int, dtype: mx.Dtype) -> tuple[int, int, int]:
    """Return the shape of one row in chunk-major order."""
    width = 16 // dtype.size
    return 32 // width, columns // 32, width


def _fits(rows: int, columns: int, experts: int) -> bool:
    # An array of fewer than 8 elements would come in constant memory, which is another signature.
    return 0 < rows <= FEW_ROWS and columns % 32 == 0 and experts >= CONSTANT_BELOW


def _expert_fits(inputs: tuple[ArraySpec, ...], rows: int, columns: int, outputs: int, k: int) -> bool:
    x, logits, slots, bias, weight, scales = inputs
    return (
        _fits(rows, columns, logits.shape[1])
        and outputs % 32 == 0
        and 0 < k <= min(MAX_CHOICES, logits.shape[1])
        and all_of(FLOATS, x, bias)
        and all_of((mx.float32,), logits)
        and all_of((mx.int32,), slots)
        and all_of((mx.uint32,), weight)
        and all_of((mx.uint8,), scales)
    )
