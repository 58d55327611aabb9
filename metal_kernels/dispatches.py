"""How each shader is called: template values, grid, and the arrays in its parameters' order.

Knows shapes and the shaders; not where they run (``launch``). Each function takes what its twin in ``reference`` takes
and returns None for arrays no shader is made for. Rows per simdgroup are what counting in the emulator favours; no Mac
has tuned them yet.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from metal_kernels.reference import Dense, Experts
from metal_kernels.source import CONSTANT_BELOW, TemplateValue

FOLDER = Path(__file__).resolve().parent
FEW_ROWS = 8
"""Up to here a row reads its own experts; beyond, rows share them, and no shader of ours is made for it."""
MAX_CHOICES = 8
ROUTER_SIMDGROUPS = 4
GATE_UP_SIMDGROUPS = 2
FLOATS = (mx.float32, mx.float16, mx.bfloat16)


@dataclass(frozen=True)
class Dispatch:
    """One launch of one shader, as ``mx.fast.metal_kernel`` takes it."""

    shader: str
    template: tuple[tuple[str, TemplateValue], ...]
    inputs: tuple[mx.array, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[mx.Dtype, ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]

    def retiled(self, **template: int) -> "Dispatch":
        """The same work under other tile sizes. The grid follows."""
        values = dict(self.template) | template
        threads, width = _THREADS[self.shader](values)
        grid = (threads, *self.grid[1:])
        return Dispatch(
            self.shader,
            tuple(values.items()),
            self.inputs,
            self.output_shapes,
            self.output_dtypes,
            grid,
            (width, 1, 1),
        )


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> Dispatch | None:
    rows, columns = x.shape
    experts = router.weight.shape[0]
    floats = (x, norm, router.weight)
    if router.bias is None or router.scales is not None or router.bias.dtype != router.weight.dtype:
        return None
    if not _fits(rows, columns, experts) or not _are(FLOATS, *floats) or dtype not in FLOATS:
        return None
    values: dict[str, TemplateValue] = {
        "X": name(x.dtype),
        "N": name(norm.dtype),
        "W": name(router.weight.dtype),
        "T": name(dtype),
        "COLUMNS": columns,
        "EXPERTS": experts,
        "SIMDGROUPS": ROUTER_SIMDGROUPS,
        "EPSILON_BITS": _bits(eps),
    }
    inputs = (x, norm, router.weight, router.bias)
    shapes = (_handed(rows, columns, dtype), (rows, experts))
    return _dispatch("norm_router", values, inputs, shapes, (dtype, mx.float32), (rows, 1))


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> Dispatch | None:
    if normed.ndim != 4:
        return None
    rows, columns, outputs = normed.shape[0], normed[0].size, experts.weight.shape[1] // 2
    if not _expert_fits(rows, columns, outputs, k, normed, logits, slots, experts):
        return None
    dtype = experts.input_dtype
    values: dict[str, TemplateValue] = {
        "T": name(normed.dtype),
        "B": name(experts.bias.dtype),
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
    inputs = (normed, logits, slots, *experts)
    shape = _handed(rows, outputs, dtype)
    return _dispatch("expert_gate_up", values, inputs, ((rows, k, *shape[1:]),), (dtype,), (k, rows))


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> Dispatch | None:
    if activated.ndim != 5:
        return None
    rows, k, columns, outputs = *activated.shape[:2], activated[0, 0].size, experts.weight.shape[1]
    if not _expert_fits(rows, columns, outputs, k, activated, logits, slots, experts) or residual.dtype not in FLOATS:
        return None
    # 2880 rows divide by five, which saves an eighth of the traffic; a simdgroup could hold no more in one batch.
    tile = 5 if outputs % 5 == 0 else 4
    values: dict[str, TemplateValue] = {
        "T": name(activated.dtype),
        "B": name(experts.bias.dtype),
        "X": name(residual.dtype),
        "COLUMNS": columns,
        "OUTPUTS": outputs,
        "EXPERTS": logits.shape[1],
        "K": k,
        "ROWS": tile,
        "BATCH": tile,
    }
    inputs = (activated, logits, slots, *experts, residual)
    return _dispatch("expert_down", values, inputs, ((rows, outputs),), (residual.dtype,), (rows, 1))


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
    inputs: tuple[mx.array, ...],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[mx.Dtype, ...],
    above: tuple[int, int],
) -> Dispatch:
    threads, width = _THREADS[shader](values)
    return Dispatch(shader, tuple(values.items()), inputs, shapes, dtypes, (threads, *above), (width, 1, 1))


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
    x: mx.array,
    logits: mx.array,
    slots: mx.array,
    experts: Experts,
) -> bool:
    return (
        _fits(rows, columns, logits.shape[1])
        and outputs % 32 == 0
        and 0 < k <= min(MAX_CHOICES, logits.shape[1])
        and _are(FLOATS, x, experts.bias)
        and _are((mx.float32,), logits)
        and _are((mx.int32,), slots)
        and _are((mx.uint32,), experts.weight)
        and _are((mx.uint8,), experts.scales)
    )


def _are(dtypes: Sequence[mx.Dtype], *arrays: mx.array) -> bool:
    return all(array.dtype in dtypes for array in arrays)


def _bits(value: float) -> int:
    """A float32 as template integer: compiled in, where an argument would be an array made anew at every call."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
