"""The launches of norm + router and of the experts."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from metal_kernels.dispatches.plan import FEW_ROWS, FLOATS, Dispatch, Kind, are, bits, kind, name, planned
from metal_kernels.reference import Dense, Experts, input_dtype
from metal_kernels.source import CONSTANT_BELOW, TemplateValue

MAX_CHOICES = 8
ROUTER_SIMDGROUPS = 4
GATE_UP_SIMDGROUPS = 2


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> Dispatch | None:
    if router.bias is None or router.scales is not None:
        return None
    inputs = (x, norm, router.weight, router.bias)
    plan = _norm_router(*map(kind, inputs), eps, dtype)
    return plan and plan._replace(inputs=inputs)


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> Dispatch | None:
    inputs = (normed, logits, slots, *_bias_first(experts))
    plan = _expert_gate_up(*map(kind, inputs), k, limit)
    return plan and plan._replace(inputs=inputs)


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> Dispatch | None:
    inputs = (activated, logits, slots, *_bias_first(experts), residual)
    plan = _expert_down(*map(kind, inputs))
    return plan and plan._replace(inputs=inputs)


def _bias_first(experts: Experts) -> tuple[mx.array, mx.array, mx.array]:
    """Slices of one buffer, the smallest first: MLX counts a buffer by the slice it meets first, in elements, and
    commits what it has after some 40 million. By a weight each projection would be a commit."""
    return experts.bias, experts.weight, experts.scales


@functools.lru_cache(64)
def _norm_router(x: Kind, norm: Kind, router: Kind, bias: Kind, eps: float, dtype: mx.Dtype) -> Dispatch | None:
    rows, columns = x.shape
    experts = router.shape[0]
    if not _fits(rows, columns, experts) or not are(FLOATS, x, norm, router) or dtype not in FLOATS:
        return None
    if bias.dtype != router.dtype:
        return None
    values: dict[str, TemplateValue] = {
        "X": name(x.dtype),
        "N": name(norm.dtype),
        "W": name(router.dtype),
        "T": name(dtype),
        "COLUMNS": columns,
        "EXPERTS": experts,
        "SIMDGROUPS": ROUTER_SIMDGROUPS,
        "EPSILON_BITS": bits(eps),
    }
    shapes = (_handed(rows, columns, dtype), (rows, experts))
    return planned("norm_router", values, shapes, (dtype, mx.float32), _router_threads, (rows, 1))


@functools.lru_cache(64)
def _expert_gate_up(
    normed: Kind, logits: Kind, slots: Kind, bias: Kind, weight: Kind, scales: Kind, k: int, limit: float
) -> Dispatch | None:
    if len(normed.shape) != 4:
        return None
    rows, columns, outputs = normed.shape[0], math.prod(normed.shape[1:]), weight.shape[1] // 2
    if not _expert_fits(rows, columns, outputs, k, normed, logits, slots, weight, scales, bias):
        return None
    dtype = input_dtype(bias.dtype)
    values: dict[str, TemplateValue] = {
        "T": name(normed.dtype),
        "B": name(bias.dtype),
        "O": name(dtype),
        "COLUMNS": columns,
        "OUTPUTS": outputs,
        "EXPERTS": logits.shape[1],
        "K": k,
        "ROWS": 8,
        "BATCH": 4,
        "SIMDGROUPS": GATE_UP_SIMDGROUPS,
        "LIMIT_BITS": bits(limit),
    }
    shape = _handed(rows, outputs, dtype)
    return planned("expert_gate_up", values, ((rows, k, *shape[1:]),), (dtype,), _gate_up_threads, (k, rows))


@functools.lru_cache(64)
def _expert_down(
    activated: Kind, logits: Kind, slots: Kind, bias: Kind, weight: Kind, scales: Kind, residual: Kind
) -> Dispatch | None:
    if len(activated.shape) != 5 or residual.dtype not in FLOATS:
        return None
    rows, k, columns, outputs = *activated.shape[:2], math.prod(activated.shape[2:]), weight.shape[1]
    if not _expert_fits(rows, columns, outputs, k, activated, logits, slots, weight, scales, bias):
        return None
    # 2880 rows divide by five, which saves an eighth of the traffic; a simdgroup could hold no more in one batch.
    tile = 5 if outputs % 5 == 0 else 4
    values: dict[str, TemplateValue] = {
        "T": name(activated.dtype),
        "B": name(bias.dtype),
        "X": name(residual.dtype),
        "COLUMNS": columns,
        "OUTPUTS": outputs,
        "EXPERTS": logits.shape[1],
        "K": k,
        "ROWS": tile,
        "BATCH": tile,
    }
    return planned("expert_down", values, ((rows, outputs),), (residual.dtype,), _down_threads, (rows, 1))


def _router_threads(v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * v["SIMDGROUPS"] * v["EXPERTS"], 32 * v["SIMDGROUPS"]


def _gate_up_threads(v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * 2 * v["OUTPUTS"] // v["ROWS"], 32 * v["SIMDGROUPS"]


def _down_threads(v: Mapping[str, Any]) -> tuple[int, int]:
    return 32 * v["K"] * v["OUTPUTS"] // v["ROWS"], 32 * v["K"]


def _handed(rows: int, columns: int, dtype: mx.Dtype) -> tuple[int, int, int, int]:
    """The shape of rows handed on chunk-major."""
    width = 16 // dtype.size
    return rows, 32 // width, columns // 32, width


def _fits(rows: int, columns: int, experts: int) -> bool:
    # An array of fewer than 8 elements would come in constant memory, which is another signature.
    return 0 < rows <= FEW_ROWS and columns % 32 == 0 and experts >= CONSTANT_BELOW


def _expert_fits(
    rows: int,
    columns: int,
    outputs: int,
    k: int,
    x: Kind,
    logits: Kind,
    slots: Kind,
    weight: Kind,
    scales: Kind,
    bias: Kind,
) -> bool:
    return (
        _fits(rows, columns, logits.shape[1])
        and outputs % 32 == 0
        and 0 < k <= min(MAX_CHOICES, logits.shape[1])
        and are(FLOATS, x, bias)
        and are((mx.float32,), logits)
        and are((mx.int32,), slots)
        and are((mx.uint32,), weight)
        and are((mx.uint8,), scales)
    )
