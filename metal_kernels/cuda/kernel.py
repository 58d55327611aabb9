"""Runs a shader on MLX's CUDA backend: its cubin, as one primitive of MLX's graph.

The order of arguments is the shader's own: each input, then its shape if the shader asks for it, and the outputs. MLX's
``cuda_kernel`` would compile the shader by itself, with other options, so it would not be the cubin that tests count.
"""

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from metal_kernels.cuda import cubins
from metal_kernels.cuda.translation import ENTRY, Triple, blocks
from metal_kernels.emulator.kernel import function_of
from metal_kernels.emulator.signature import template_values
from metal_kernels.source import MetalSource

SHAPE = "_shape"


def metal_kernel(source: MetalSource) -> Callable[..., list[mx.array]]:
    """Return a kernel that is called as MLX's ``metal_kernel`` is: with the keywords ``inputs``, ``output_shapes``,
    ``output_dtypes``, ``grid``, ``threadgroup`` and ``template``. It returns the outputs, not yet computed.

    The call raises nvrtc.Absent, nvrtc.CompileError, and ValueError for a launch that CUDA does not have.
    """

    def call(
        *,
        inputs: Sequence[mx.array],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Triple,
        threadgroup: Triple,
        template: Sequence[tuple[str, Any]] = (),
    ) -> list[mx.array]:
        cubin, names = _built(source, tuple(template), prod(threadgroup), architecture())
        count, threads = blocks(source, grid, threadgroup)
        given = dict(zip((one.name for one in source.inputs), inputs, strict=True))
        return mx.fast.precompiled_cuda_kernel(
            name=ENTRY,
            compiled_source=cubin,
            inputs=[given[name] if name in given else _shape(given[name.removesuffix(SHAPE)].shape) for name in names],
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            scalars=[],
            grid=(count[0] * threads[0], count[1] * threads[1], count[2] * threads[2]),  # MLX counts threads
            threadgroup=threads,
            ensure_row_contiguous=True,
        )

    return call


@functools.cache
def architecture() -> str:
    """Return the GPU's architecture, such as "sm_90"."""
    return str(mx.device_info(mx.gpu)["architecture"])


@functools.cache
def _built(
    source: MetalSource, template: tuple[tuple[str, Any], ...], threads: int, target: str
) -> tuple[bytes, tuple[str, ...]]:
    """Return the cubin, and the names of its arguments before the outputs."""
    values = dict(template_values(template))
    function = function_of(source, values)
    names = tuple(parameter.name for parameter in function.parameters if parameter.kind == "buffer")
    return cubins.of_shader(source, values, threads, target).cubin, names[: -len(source.outputs)]


@functools.lru_cache(256)
def _shape(shape: tuple[int, ...]) -> mx.array:
    """Return a shape as an array, the same one for the same shape, because the GPU would get each anew."""
    return mx.array(shape, mx.int32)
