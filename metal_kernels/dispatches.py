"""How each shader is called: template values, grid, and the arrays in its parameters' order.

Knows shapes and the shaders; not where they run (``launch``). Each function takes what its twin in ``reference`` takes
and returns None for arrays no shader is made for. Rows per simdgroup are what counting in the emulator favours; no Mac
has tuned them yet.
"""

import functools
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from metal_kernels.reference import Dense, Experts, input_dtype
from metal_kernels.source import CONSTANT_BELOW, TemplateValue

FOLDER = Path(__file__).resolve().parent
FEW_ROWS = 8
"""Up to here a row reads its own experts; beyond, rows share them, and no shader of ours is made for it."""
MAX_CHOICES = 8
ROUTER_SIMDGROUPS = 4
GATE_UP_SIMDGROUPS = 2
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


class Dispatch(NamedTuple):
    """One launch of one shader, as ``mx.fast.metal_kernel`` takes it."""

    shader: str
    template: tuple[tuple[str, TemplateValue], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[mx.Dtype, ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    inputs: tuple[mx.array, ...] = ()

    def retiled(self, **template: int) -> "Dispatch":
        """The same work under other tile sizes. The grid follows."""
        values = dict(self.template) | template
        threads, width = _THREADS[self.shader](values)
        grid = (threads, *self.grid[1:])
        return self._replace(template=tuple(values.items()), grid=grid, threadgroup=(width, 1, 1))


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> Dispatch | None:
    if router.bias is None or router.scales is not None:
        return None
    inputs = (x, norm, router.weight, router.bias)
    plan = _norm_router(*map(_kind, inputs), eps, dtype)
    return plan and plan._replace(inputs=inputs)


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> Dispatch | None:
    inputs = (normed, logits, slots, *experts)
    plan = _expert_gate_up(*map(_kind, inputs), k, limit)
    return plan and plan._replace(inputs=inputs)


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> Dispatch | None:
    inputs = (activated, logits, slots, *experts, residual)
    plan = _expert_down(*map(_kind, inputs))
    return plan and plan._replace(inputs=inputs)


# ---- the same from shapes and dtypes alone, which hardly ever change: planned once, as Python is slow beside a GPU


class Kind(NamedTuple):
    """What of an array decides a launch."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


def _kind(array: mx.array) -> Kind:
    return Kind(array.shape, array.dtype)


@functools.lru_cache(64)
def _norm_router(x: Kind, norm: Kind, router: Kind, bias: Kind, eps: float, dtype: mx.Dtype) -> Dispatch | None:
    rows, columns = x.shape
    experts = router.shape[0]
    if not _fits(rows, columns, experts) or not _are(FLOATS, x, norm, router) or dtype not in FLOATS:
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
        "EPSILON_BITS": _bits(eps),
    }
    shapes = (_handed(rows, columns, dtype), (rows, experts))
    return _dispatch("norm_router", values, shapes, (dtype, mx.float32), (rows, 1))


@functools.lru_cache(64)
def _expert_gate_up(
    normed: Kind, logits: Kind, slots: Kind, weight: Kind, scales: Kind, bias: Kind, k: int, limit: float
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
        "LIMIT_BITS": _bits(limit),
    }
    shape = _handed(rows, outputs, dtype)
    return _dispatch("expert_gate_up", values, ((rows, k, *shape[1:]),), (dtype,), (k, rows))


@functools.lru_cache(64)
def _expert_down(
    activated: Kind, logits: Kind, slots: Kind, weight: Kind, scales: Kind, bias: Kind, residual: Kind
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
    return _dispatch("expert_down", values, ((rows, outputs),), (residual.dtype,), (rows, 1))


def name(dtype: mx.Dtype) -> str:
    """A dtype's name as templates have it."""
    return str(dtype).removeprefix("mlx.core.")


# Threads along x, and threads of a threadgroup, by template values.
_THREADS = {
    "norm_router": lambda v: (32 * v["SIMDGROUPS"] * v["EXPERTS"], 32 * v["SIMDGROUPS"]),
    "expert_gate_up": lambda v: (32 * 2 * v["OUTPUTS"] // v["ROWS"], 32 * v["SIMDGROUPS"]),
    "expert_down": lambda v: (32 * v["K"] * v["OUTPUTS"] // v["ROWS"], 32 * v["K"]),
}


def _dispatch(
    shader: str,
    values: dict[str, TemplateValue],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[mx.Dtype, ...],
    above: tuple[int, int],
) -> Dispatch:
    threads, width = _THREADS[shader](values)
    return Dispatch(shader, tuple(values.items()), shapes, dtypes, (threads, *above), (width, 1, 1))


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
        and _are(FLOATS, x, bias)
        and _are((mx.float32,), logits)
        and _are((mx.int32,), slots)
        and _are((mx.uint32,), weight)
        and _are((mx.uint8,), scales)
    )


def _are(dtypes: Sequence[mx.Dtype], *kinds: Kind) -> bool:
    return all(kind.dtype in dtypes for kind in kinds)


def _bits(value: float) -> int:
    """A float32 as template integer: compiled in, where an argument would be an array made anew at every call."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
