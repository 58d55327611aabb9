"""Stands in for MLX's CUDA backend where there is no GPU: what would be launched runs in the emulator.

It gets what MLX gets, so it knows a buffer by its place alone. MLX's own function is called too, for it checks the
types of its arguments before it says that there is no backend.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches
from metal_kernels.cuda import cubins, kernel
from metal_kernels.cuda.nvrtc import Compiled
from metal_kernels.emulator import arrays
from metal_kernels.emulator.kernel import function_of, run_function
from metal_kernels.emulator.runner import Buffer
from metal_kernels.source import MetalSource

_real = mx.fast.precompiled_cuda_kernel


@contextmanager
def stand_in() -> Iterator[list[str]]:
    """Let the "cuda" place run in the emulator. Yield the list of the shaders that have run."""
    ran: list[str] = []

    def of_shader(source: MetalSource, template: dict, threads: int, architecture: str) -> Compiled:
        return Compiled(json.dumps([source.path.name, template]).encode(), 0, 0)

    def launched(**given: Any) -> list[mx.array]:
        with pytest.raises(RuntimeError, match="No CUDA back-end"):
            _real(**given)
        ran.append(json.loads(given["compiled_source"])[0].removesuffix(".metal"))
        return _emulated(**given)

    with (
        patch.object(cubins, "of_shader", of_shader),
        patch.object(kernel, "architecture", lambda: "sm_90"),
        patch.object(mx.fast, "precompiled_cuda_kernel", launched),
    ):
        kernel._built.cache_clear()
        yield ran
        kernel._built.cache_clear()


def _emulated(
    *,
    compiled_source: bytes,
    inputs: list[mx.array],
    output_shapes: list,
    output_dtypes: list,
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    **_: Any,
) -> list[mx.array]:
    file, template = json.loads(compiled_source)
    function = function_of(MetalSource.read(dispatches.FOLDER / file), template)
    assert all(whole % part == 0 for whole, part in zip(grid, threadgroup, strict=True)), "CUDA has only whole blocks"
    names = [dispatches.name(dtype) for dtype in output_dtypes]
    outputs = [np.zeros(shape, arrays.storage(name)) for shape, name in zip(output_shapes, names, strict=True)]
    given = [np.ascontiguousarray(arrays.take(array)[0]) for array in inputs]
    buffers = [Buffer(str(at), array) for at, array in enumerate(given)]
    buffers += [
        Buffer(f"out {at}", array, 2, name) for at, (array, name) in enumerate(zip(outputs, names, strict=True))
    ]
    assert len(buffers) == sum(parameter.kind == "buffer" for parameter in function.parameters)
    run_function(function, Path(file).stem, grid, threadgroup, buffers, mode="fast")
    return [arrays.give(bits, name, True) for bits, name in zip(outputs, names, strict=True)]
