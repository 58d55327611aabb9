"""The decoder's operations. Each runs as a shader, in the native CPU library (``cpu``) or in plain MLX (``reference``).

This is the only place that chooses between them. It chooses by device; ``dispatches`` refuse arrays that a shader does
not take, and ``cpu.operations`` those that the library does not. By default shaders run where there is Metal, and the
library on MLX's CPU backend where it is built. Plain MLX does the rest, on the CPU backend with products that add up in
float32 (``float32_sums``). ``GPTOSS_MAC_KERNELS=off`` runs plain MLX only; ``=emulated`` runs shaders in the emulator,
on any machine and slowly; ``=cuda`` runs them on MLX's CUDA backend, to judge them. If a shader does not compile, this
warns once, and plain MLX does its work from then on, as it does that of shaders found wrong on this machine
(``give_to_plain_mlx``).
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import mlx.core as mx

from metal_kernels import cpu_draws, dispatches, draws, float32_sums, reference
from metal_kernels.cpu import operations as cpu
from metal_kernels.cpu.library import library
from metal_kernels.dispatches import FEW_ROWS, FOLDER, Dispatch
from metal_kernels.operands import Attention, CacheView, Dense, Pass, input_dtype  # noqa: F401  (used through this module)
from metal_kernels.source import MetalSource

VARIABLE = "GPTOSS_MAC_KERNELS"
"""The environment variable that says where operations run."""
SETTINGS = ("", "off", "emulated", "cuda")
PLACES = ("metal", "emulated", "cuda")
"""Where shaders run."""
TEMPLATE_DTYPES: dict[Any, mx.Dtype] = {dispatches.name(dtype): dtype for dtype in (*dispatches.FLOATS, mx.uint32)}
"""The dtypes a template value may name."""
P = ParamSpec("P")
R = TypeVar("R")


def _operation(
    plain: Callable[P, R],
    float32: Callable[P, R],
    native: Callable[P, R | None] | None,
    shader: Callable[..., Dispatch | None] | None = None,
) -> Callable[P, R]:
    """Return ``plain`` as a function that runs where :func:`where` says, if ``shader`` or ``native`` takes its
    arguments, and that else runs ``float32`` on the CPU backend or ``plain`` itself."""

    @functools.wraps(plain)
    def operation(*arguments: P.args, **options: P.kwargs) -> R:
        place = where()
        if place == "cpu" and native is not None:
            made = native(*arguments, **options)
            if made is not None:
                return made
        elif place is not None and shader is not None:
            out = _launch(shader, *arguments, **options)
            if out is not None:
                return cast(R, tuple(out) if len(out) > 1 else out[0])
        return (float32 if on_cpu() else plain)(*arguments, **options)

    return operation


norm_qkv_rope = _operation(
    reference.norm_qkv_rope, float32_sums.norm_qkv_rope, cpu.norm_qkv_rope, dispatches.norm_qkv_rope
)
prefill_attention = _operation(reference.prefill_attention, float32_sums.prefill_attention, cpu.prefill_attention)
output_residual = _operation(
    reference.output_residual, float32_sums.output_residual, cpu.output_residual, dispatches.output_residual
)
norm_router = _operation(reference.norm_router, reference.norm_router, cpu.norm_router, dispatches.norm_router)
expert_gate_up = _operation(
    reference.expert_gate_up, float32_sums.expert_gate_up, cpu.expert_gate_up, dispatches.expert_gate_up
)
expert_down_residual = _operation(
    reference.expert_down_residual,
    float32_sums.expert_down_residual,
    cpu.expert_down_residual,
    dispatches.expert_down_residual,
)
grouped_swiglu = _operation(reference.grouped_swiglu, reference.grouped_swiglu, None, dispatches.grouped_swiglu)
grouped_sum = _operation(reference.grouped_sum, reference.grouped_sum, None, dispatches.grouped_sum)


def _around_products(mlp: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Return a grouped MLP whose products are its own, and what is around them these two operations."""
    return functools.wraps(mlp)(functools.partial(mlp, activate=grouped_swiglu, add_up=grouped_sum))


expert_mlp_grouped = _operation(
    _around_products(reference.expert_mlp_grouped),
    _around_products(float32_sums.expert_mlp_grouped),
    cpu.expert_mlp_grouped,
)
expert_mlp_in_passes = _operation(
    _around_products(reference.expert_mlp_in_passes),
    _around_products(float32_sums.expert_mlp_in_passes),
    cpu.expert_mlp_in_passes,
)
norm_head = _operation(reference.norm_head, float32_sums.norm_head, cpu.norm_head, dispatches.norm_head)
rope_tables = _operation(reference.rope_tables, reference.rope_tables, cpu.rope_tables)


def decode_attention(
    q: mx.array, kv: mx.array, caches: Sequence[CacheView], layer: Attention, dtype: mx.Dtype
) -> tuple[mx.array, list[mx.array]]:
    """Run :func:`reference.decode_attention` for each of S sequences with the same number of new positions.

    q [T, N, D] and kv [T, 2, M, D] hold the rows of the first sequence first. Returns attended rows [T, N * D] and a
    tail for each cache: a new one, or from the library the cache's own, with the new rows written behind the others.
    """
    if where() == "cpu" and dtype == mx.float32 and (made := cpu.decode_attention(q, kv, caches, layer)) is not None:
        return made
    each = len(q) // len(caches)
    own = [slice(number * each, (number + 1) * each) for number in range(len(caches))]
    pairs = [_decode_one(q[rows], kv[rows], cache, layer, dtype) for rows, cache in zip(own, caches, strict=True)]
    attended = mx.concatenate([out for out, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
    return attended, [tail for _, tail in pairs]


def _decode_one(
    q: mx.array, kv: mx.array, cache: CacheView, layer: Attention, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    """Run it for one sequence, with two shaders where there are many keys."""
    if (out := _launch(dispatches.decode_attention, q, kv, cache, layer, dtype)) is not None:
        attended, tail = out
        if not dispatches.is_split(attended):
            return attended, tail
        if (joined := _launch(dispatches.decode_attention_combine, attended, layer.sinks, dtype)) is not None:
            return joined[0], tail
    return reference.decode_attention(q, kv, cache, layer, dtype)


def norm_head_argmax(x: mx.array, norm: mx.array, eps: float, head: Dense) -> tuple[mx.array, mx.array]:
    """Run :func:`reference.norm_head_argmax`, with two shaders: the first writes only the largest logit of each
    threadgroup, and the largest of all is the witness."""
    if where() == "cpu" and (made := cpu.norm_head_argmax(x, norm, eps, head)) is not None:
        return made
    best = _launch(dispatches.norm_head_argmax, x, norm, eps, head)
    if best is not None and (out := _launch(dispatches.norm_head_argmax_combine, *best)) is not None:
        return out[0], out[1]
    return (float32_sums if on_cpu() else reference).norm_head_argmax(x, norm, eps, head)


def embed(tokens: mx.array, table: Dense) -> mx.array:
    """Run :func:`reference.embed` on the CPU, wherever the rest runs: the GPU would keep all of the table in memory for
    the few rows that it reads."""
    if where() == "cpu" and (made := cpu.embed(tokens, table)) is not None:
        return made
    with mx.stream(mx.cpu):
        return reference.embed(tokens, table)


def scaled(logits: mx.array, temperature: float) -> mx.array:
    """Run :func:`draws.scaled`."""
    return _draws().scaled(logits, temperature)


def draw(logits: mx.array, point: mx.array) -> mx.array:
    """Run :func:`draws.draw`."""
    return _draws().draw(logits, point)


def draw_among_likeliest(logits: mx.array, point: mx.array, ranks: int, share: float, least: float) -> mx.array:
    """Run :func:`draws.draw_among_likeliest`. On the CPU backend only the likeliest ids are sorted."""
    return _draws().draw_among_likeliest(logits, point, ranks, share, least)


def witness(values: mx.array) -> mx.array:
    """Run :func:`draws.witness`."""
    return _draws().witness(values)


def _draws() -> ModuleType:
    return cpu_draws if on_cpu() else draws


def each_row_for_itself(rows: int) -> bool:
    """Return whether rows are so few that each reads its experts for itself; if not, they are grouped by expert."""
    return rows <= FEW_ROWS


def room(nbytes: int) -> mx.array:
    """Return zeros [nbytes] uint8 to read weights into. They lie where operations read them fastest: for the CPU
    library in large pages."""
    zeros = mx.zeros(nbytes, mx.uint8)
    mx.eval(zeros)
    if where() == "cpu":
        cpu.hold_zeros_in_large_pages(zeros)
    return zeros


def on_cpu() -> bool:
    """Return whether MLX computes on its CPU backend."""
    return mx.default_device().type == mx.DeviceType.cpu


def where() -> str | None:
    """Return where operations run: as shaders at one of ``PLACES``, in the native library on the "cpu", or None for
    plain MLX. Raise ValueError for an unknown setting."""
    setting = os.environ.get(VARIABLE, "")
    if setting not in SETTINGS:
        raise ValueError(f"{VARIABLE} is {setting!r}; use off, emulated or cuda, or leave it unset")
    if setting:
        return setting if setting in PLACES else None
    if on_cpu():
        return "cpu" if library() is not None else None
    return "metal" if mx.metal.is_available() else None


def check(place: str | None = None) -> None:
    """Raise ValueError, in one line with the remedy, if shaders cannot run at ``place``, by default where the setting
    says."""
    place = place or where()
    if place == "cuda" and (not mx.cuda.is_available() or find_spec("metal_kernels.cuda") is None):
        raise ValueError(
            f"{VARIABLE} is 'cuda', but there is no CUDA backend here: run `make .venv-cuda` in a checkout, on Linux "
            "with an NVIDIA GPU, and this program from there"
        )
    if place == "emulated":
        from metal_kernels.emulator import ToolchainError, toolchain

        try:
            toolchain.find()
        except ToolchainError as error:
            raise ValueError(f"shaders cannot be emulated here: there is {error}") from error


def nearest() -> str:
    """Return where shaders can run here: as the setting says, else "metal" if there is Metal, or "emulated"."""
    place = where()
    return place if place in PLACES else "metal" if mx.metal.is_available() else "emulated"


def run(dispatch: Dispatch, place: str) -> list[mx.array]:
    """Return the outputs of one dispatch at one of ``PLACES``. Raise CompileError."""
    return kernel_at(dispatch.shader, place)(dispatch)


def give_to_plain_mlx(shaders: Iterable[str], place: str) -> None:
    """Let plain MLX do the work of these shaders from now on, where it would be done at ``place``."""
    for shader in shaders:
        kernel_at(shader, place).broken = True


class CompileError(Exception):
    """A shader did not compile. ``str()`` is the compiler's message."""


@dataclass
class Kernel:
    """One shader at one place. Knows the templates that have compiled, and whether one has failed to or is wrong."""

    source: MetalSource
    place: str
    compiled: set[tuple] = field(default_factory=set)
    broken: bool = False

    def __post_init__(self) -> None:
        self._call: Callable[..., Any]
        if self.place == "metal":
            self._call = cast(Callable[..., Any], mx.fast.metal_kernel(**self.source.arguments()))
        elif self.place == "cuda":
            from metal_kernels.cuda import kernel

            self._call = kernel.metal_kernel(self.source)
        else:
            from metal_kernels.emulator import metal_kernel

            self._call = metal_kernel(**self.source.arguments(), mode="fast")

    def __call__(self, dispatch: Dispatch) -> list[mx.array]:
        """Check and compile the dispatch if its template is new. Return its outputs. Raise CompileError."""
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
        """Return the outputs. On Metal neither they are computed yet nor is the shader compiled."""
        out = self._call(
            inputs=list(dispatch.inputs),
            output_shapes=list(dispatch.output_shapes),
            output_dtypes=list(dispatch.output_dtypes),
            grid=dispatch.grid,
            threadgroup=dispatch.threadgroup,
            template=[(name, TEMPLATE_DTYPES.get(value, value)) for name, value in dispatch.template],
        )
        return out[0] if self.place == "emulated" else out


@functools.cache
def kernel_at(shader: str, place: str) -> Kernel:
    """Return the kernel of a shader at one of ``PLACES``, the same one at every call."""
    return Kernel(MetalSource.read(FOLDER / f"{shader}.metal"), place)


def _launch(build: Callable[..., Dispatch | None], *arguments: Any, **options: Any) -> list[mx.array] | None:
    """Return the outputs of the shader, or None where shaders do not run, none takes the arguments, or it is broken."""
    place = where()
    dispatch = build(*arguments, **options) if place in PLACES else None
    if place is None or dispatch is None:
        return None
    kernel = kernel_at(dispatch.shader, place)
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
        texts = ("[metal::Device] Unable to build", "[metal::Device] Unable to load", "Failed to load compiled entry")
        return any(text in str(error) for text in texts)
    return type(error).__name__ == "LintError" or type(error).__module__ == "metal_kernels.cuda.nvrtc"
