"""The decoder's operations, each through the body that fits: its shader, or plain MLX.

The only place that decides, by shape, dtype and device. ``GPTOSS_MAC_KERNELS=off`` keeps to plain MLX; ``=emulated``
runs the shaders in the emulator, on any machine and slowly. By default a shader runs on Metal where there is Metal. A
shader that does not compile is warned of once, and plain MLX does its work from then on.
"""

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mlx.core as mx

from metal_kernels import cpu_attention, cpu_draw, dispatches, draws, reference
from metal_kernels.dispatches import FEW_ROWS, FOLDER, Dispatch
from metal_kernels.draws import draw
from metal_kernels.reference import (
    Dense,
    Experts,
    attention,
    embed,
    expert_mlp_grouped,
    input_dtype,
    witness,
)
from metal_kernels.source import MetalSource

__all__ = [
    "FEW_ROWS",
    "attention",
    "attention_with_cache",
    "attention_with_caches",
    "draw",
    "draw_among_likeliest",
    "each_row_for_itself",
    "embed",
    "expert_down_residual",
    "expert_gate_up",
    "expert_mlp_grouped",
    "input_dtype",
    "norm_head",
    "norm_head_argmax",
    "norm_qkv_rope",
    "norm_router",
    "output_residual",
    "where",
    "witness",
]

VARIABLE = "GPTOSS_MAC_KERNELS"
DTYPES: dict[Any, mx.Dtype] = {dispatches.name(dtype): dtype for dtype in (*dispatches.FLOATS, mx.uint32)}


def norm_qkv_rope(
    x: mx.array, norm: mx.array, eps: float, qkv: Dense, cos: mx.array, sin: mx.array, heads: int, kv_heads: int
) -> tuple[mx.array, mx.array]:
    """As :func:`reference.norm_qkv_rope`."""
    arguments = (x, norm, eps, qkv, cos, sin, heads, kv_heads)
    if (out := _launch(dispatches.norm_qkv_rope, arguments)) is not None:
        return out[0], out[1]
    return reference.norm_qkv_rope(*arguments)


def output_residual(attended: mx.array, o: Dense, residual: mx.array) -> mx.array:
    """As :func:`reference.output_residual`."""
    arguments = (attended, o, residual)
    if (out := _launch(dispatches.output_residual, arguments)) is not None:
        return out[0]
    return reference.output_residual(*arguments)


def norm_router(x: mx.array, norm: mx.array, eps: float, router: Dense, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """As :func:`reference.norm_router`."""
    arguments = (x, norm, eps, router, dtype)
    if (out := _launch(dispatches.norm_router, arguments)) is not None:
        return out[0], out[1]
    return reference.norm_router(*arguments)


def expert_gate_up(
    normed: mx.array, logits: mx.array, slots: mx.array, experts: Experts, k: int, limit: float
) -> mx.array:
    """As :func:`reference.expert_gate_up`."""
    arguments = (normed, logits, slots, experts, k, limit)
    if (out := _launch(dispatches.expert_gate_up, arguments)) is not None:
        return out[0]
    return reference.expert_gate_up(*arguments)


def expert_down_residual(
    activated: mx.array, logits: mx.array, slots: mx.array, experts: Experts, residual: mx.array
) -> mx.array:
    """As :func:`reference.expert_down_residual`."""
    arguments = (activated, logits, slots, experts, residual)
    if (out := _launch(dispatches.expert_down_residual, arguments)) is not None:
        return out[0]
    return reference.expert_down_residual(*arguments)


def attention_with_cache(
    q: mx.array,
    kv: mx.array,
    body: mx.array,
    tail: mx.array,
    rows: mx.array,
    keys: int,
    sinks: mx.array,
    scale: float,
    window: int | None,
    dtype: mx.Dtype,
) -> tuple[mx.array, mx.array]:
    """As :func:`reference.attention_with_cache`. Two shaders where there are many keys."""
    arguments = (q, kv, body, tail, rows, keys, sinks, scale, window, dtype)
    if (out := _launch(dispatches.attention_with_cache, arguments)) is not None:
        attended, fresh = out
        if not dispatches.is_split(attended):
            return attended, fresh
        if (joined := _launch(dispatches.attention_combine, (attended, sinks, dtype))) is not None:
            return joined[0], fresh
    return reference.attention_with_cache(*arguments)


def norm_head(x: mx.array, norm: mx.array, eps: float, head: Dense) -> mx.array:
    """As :func:`reference.norm_head`."""
    arguments = (x, norm, eps, head)
    if (out := _launch(dispatches.norm_head, arguments)) is not None:
        return out[0]
    return reference.norm_head(*arguments)


def norm_head_argmax(x: mx.array, norm: mx.array, eps: float, head: Dense) -> tuple[mx.array, mx.array]:
    """As :func:`reference.norm_head_argmax`. Two shaders: no logit but the largest of each threadgroup is written, and
    the largest of all is the witness."""
    arguments = (x, norm, eps, head)
    best = _launch(dispatches.norm_head_best, arguments)
    if best is not None and (out := _launch(dispatches.best_token, tuple(best))) is not None:
        return out[0], out[1]
    return reference.norm_head_argmax(*arguments)


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """As :func:`draws.draw_among_likeliest`. On the CPU backend nothing but the likeliest is sorted."""
    body = cpu_draw if reference.on_cpu() else draws
    return body.draw_among_likeliest(logits, point, ranks, share, least)


def attention_with_caches(
    q: mx.array,
    kv: mx.array,
    caches: Sequence[tuple[mx.array, mx.array, mx.array, int]],
    sinks: mx.array,
    scale: float,
    window: int | None,
    dtype: mx.Dtype,
) -> tuple[mx.array, list[mx.array]]:
    """:func:`attention_with_cache` for each of S sequences, the same number of new positions each: attended [T, N * D],
    and the tails. ``caches`` hold what that function takes as body, tail, rows and keys."""
    if len(caches) > 1 and where() is None and reference.on_cpu() and kv.dtype == dtype == mx.float32:
        return cpu_attention.attention_with_caches(q, kv, caches, sinks, scale, window)
    each = len(q) // len(caches)
    pairs = [
        attention_with_cache(q[start : start + each], kv[start : start + each], *cache, sinks, scale, window, dtype)
        for start, cache in zip(range(0, len(q), each), caches, strict=True)
    ]
    attended = mx.concatenate([out for out, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
    return attended, [tail for _, tail in pairs]


def each_row_for_itself(rows: int, k: int, experts: int) -> bool:
    """Whether rows read the experts they want one by one, rather than sorted and grouped by expert.

    On the CPU backend grouping decodes an expert once, at the price of one and a half to two rows of a product that
    decodes as it goes (float32, 20b's shape and the bundled model's): it pays once as many rows want each expert.
    """
    if rows <= FEW_ROWS:
        return True
    return where() is None and reference.on_cpu() and 2 * rows * k < 3 * experts


def where() -> str | None:
    """Where shaders run: "metal", "emulated", or None for plain MLX. Raises ValueError for a setting there is not."""
    setting = os.environ.get(VARIABLE, "")
    if setting not in ("", "off", "emulated"):
        raise ValueError(f"{VARIABLE} is {setting!r}; use off or emulated, or leave it unset")
    if setting:
        return setting if setting == "emulated" else None
    return "metal" if mx.metal.is_available() and not reference.on_cpu() else None


def check() -> None:
    """Raises ValueError, in one line with the remedy, if the setting cannot be followed on this machine."""
    if where() == "emulated":
        from metal_kernels.emulator import ToolchainError, toolchain

        try:
            toolchain.find()
        except ToolchainError as error:
            raise ValueError(f"{VARIABLE} is 'emulated', but there is {error}") from error


def nearest() -> str:
    """Where shaders can run on this machine: "metal" if it has that and is not told to emulate, else "emulated"."""
    return "metal" if where() != "emulated" and mx.metal.is_available() else "emulated"


def run(dispatch: Dispatch, place: str) -> list[mx.array]:
    """The outputs of one dispatch at "metal" or "emulated". Raises CompileError."""
    return _kernel(dispatch.shader, place)(dispatch)


class CompileError(Exception):
    """A shader did not compile. ``str()`` is the compiler's message."""


@dataclass
class Kernel:
    """One shader at one place: the templates it has compiled for, and whether there was one it did not."""

    source: MetalSource
    place: str
    compiled: set[tuple] = field(default_factory=set)
    broken: bool = False

    def __post_init__(self) -> None:
        self._call: Callable[..., Any]
        if self.place == "metal":
            self._call = cast(Callable[..., Any], mx.fast.metal_kernel(**self.source.arguments()))
        else:
            from metal_kernels.emulator import metal_kernel

            self._call = metal_kernel(**self.source.arguments(), mode="fast")

    def __call__(self, dispatch: Dispatch) -> list[mx.array]:
        key = (dispatch.template, dispatch.output_dtypes)
        first = key not in self.compiled
        if first:
            given = [(dispatches.name(array.dtype), array.shape) for array in dispatch.inputs]
            self.source.check(given, dict(dispatch.template))
        try:
            out = self.launch(dispatch)
            if first:
                mx.eval(out)  # Metal compiles when a kernel is first evaluated
        except Exception as error:
            if not _is_compile_error(error):
                raise
            raise CompileError(str(error)) from error
        self.compiled.add(key)
        return out

    def launch(self, dispatch: Dispatch) -> list[mx.array]:
        """The outputs: on Metal not yet computed, nor the shader compiled."""
        out = self._call(
            inputs=list(dispatch.inputs),
            output_shapes=list(dispatch.output_shapes),
            output_dtypes=list(dispatch.output_dtypes),
            grid=dispatch.grid,
            threadgroup=dispatch.threadgroup,
            template=[(name, DTYPES.get(value, value)) for name, value in dispatch.template],
        )
        return out if self.place == "metal" else out[0]


@functools.cache
def _kernel(shader: str, place: str) -> Kernel:
    return Kernel(MetalSource.read(FOLDER / f"{shader}.metal"), place)


def _launch(build: Callable[..., Dispatch | None], arguments: tuple) -> list[mx.array] | None:
    place = where()
    dispatch = build(*arguments) if place else None
    if place is None or dispatch is None:
        return None
    kernel = _kernel(dispatch.shader, place)
    if kernel.broken:
        return None
    try:
        return kernel(dispatch)
    except CompileError as error:
        kernel.broken = True
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the shader {dispatch.shader} does not compile here, plain MLX does its work: {reason}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _is_compile_error(error: Exception) -> bool:
    if isinstance(error, ValueError):  # compiled to more registers than so many threads may have
        return "Thread group size" in str(error)
    if isinstance(error, RuntimeError):  # MLX 0.32, mlx/backend/metal/device.cpp
        return "[metal::Device] Unable to build" in str(error) or "[metal::Device] Unable to load" in str(error)
    return type(error).__name__ == "LintError"
