"""``metal_kernel``: calls the emulator as ``mx.fast.metal_kernel`` is called. Knows how MLX passes arrays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metal_kernels.emulator import arrays
from metal_kernels.emulator.build import Mode, build
from metal_kernels.emulator.errors import CallError, KernelFault
from metal_kernels.emulator.report import Report
from metal_kernels.emulator.runner import Buffer, Order, run
from metal_kernels.emulator.signature import Function, Input, generate, shape_parameters, template_values
from metal_kernels.source import MetalSource, TemplateValue
from metal_kernels.toolchain import Toolchain


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    *,
    atomic_outputs: bool = False,
    mode: Mode = "check",
    toolchain: Toolchain | None = None,
) -> Callable[..., tuple[list[Any], Report]]:
    """Return a kernel that runs in the emulator. The arguments up to ``atomic_outputs`` are MLX's.

    ``mode``: "fast" runs and guards the ends of buffers; "count" counts accesses as written; "check" looks for races,
    uninitialised memory, bounds, alignment and undefined arithmetic; "cover" records the lines that are reached.

    The result is called with keywords: ``inputs`` (numpy arrays, :class:`BFloat16` or mlx arrays), ``output_shapes``,
    ``output_dtypes``, ``grid`` (threads), ``threadgroup``, ``template`` ((name, dtype, int or bool) pairs),
    ``init_value``; and the emulator's ``order`` of threads and threadgroups ("forward", "reversed", "shuffled"),
    ``seed``, ``seconds`` of CPU time after which the run is stopped, ``flush_subnormals`` and ``mode``. It returns the
    outputs (mlx arrays if any input is one) and the :class:`Report`.

    Raises LintError if the source breaks a rule, CallError if the arrays do not fit, KernelFault if the run cannot
    finish.
    """
    if not output_names:
        raise CallError(f"{name}: at least one output is needed")
    default_mode = mode

    def call(
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[Any],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        template: Sequence[tuple[str, Any]] = (),
        init_value: float | None = None,
        order: Order = "forward",
        seed: int = 1,
        seconds: int = 600,
        flush_subnormals: bool = False,
        mode: Mode = default_mode,
    ) -> tuple[list[Any], Report]:
        for what, handed, expected in (
            ("inputs", inputs, input_names),
            ("output_shapes", output_shapes, output_names),
            ("output_dtypes", output_dtypes, output_names),
        ):
            if len(handed) != len(expected):
                raise CallError(f"{name}: {len(handed)} {what} for {len(expected)} names")
        taken = [arrays.take(array) for array in inputs]
        if ensure_row_contiguous:
            taken = [(np.ascontiguousarray(a).reshape(a.shape), dtype) for a, dtype in taken]
        described = [Input(n, dtype, a.shape) for n, (a, dtype) in zip(input_names, taken, strict=True)]
        dtypes = [arrays.dtype_name(dtype) for dtype in output_dtypes]
        outputs = list(zip(output_names, dtypes, strict=True))
        values = template_values(template)
        function = generate(name, source, header, described, outputs, values, atomic_outputs=atomic_outputs)

        buffers = []
        for given, (array, _) in zip(described, taken, strict=True):
            buffers.append(Buffer(given.name, _span(array)))
            if given.shape:
                for suffix, _ in shape_parameters(given.name, source):
                    buffers.append(Buffer(given.name + suffix, _shape_value(suffix, array)))
        results = []
        for (output, dtype), shape in zip(outputs, output_shapes, strict=True):
            result = np.zeros(tuple(shape), arrays.storage(dtype))
            if init_value is not None:
                first = np.array(init_value, np.float32)
                result[...] = arrays.BFloat16.of(first).bits if dtype == "bfloat16" else first
            results.append(result)
            buffers.append(Buffer(output, result, 2 if init_value is None else 1, dtype))

        library = build(function, mode, flush_subnormals=flush_subnormals, toolchain=toolchain)
        report, finished = run(
            library,
            name,
            mode,
            grid,
            threadgroup,
            buffers,
            order=order,
            seed=seed,
            seconds=seconds,
            flush_subnormals=flush_subnormals,
        )
        if not finished:
            raise KernelFault(report)
        as_mlx = any(arrays.is_mlx(array) for array in inputs)
        return [arrays.give(r, d, as_mlx) for r, d in zip(results, dtypes, strict=True)], report

    return call


def function_of(source: MetalSource, template: Mapping[str, TemplateValue]) -> Function:
    """Return the function MLX would generate for a shader file and arrays that fit it."""
    values = template_values(list(source.template_values(template).items()))
    shapes = {"device": (8,), "constant": (1,)}
    inputs = [
        Input(given.name, source.dtype(given, template), () if given.scalar else shapes[given.space])
        for given in source.inputs
    ]
    outputs = [(output.name, source.dtype(output, template)) for output in source.outputs]
    atomic = source.atomic_outputs
    return generate(source.name, source.body, source.header, inputs, outputs, values, atomic_outputs=atomic)


def _span(array: np.ndarray) -> np.ndarray:
    """Return the memory an array covers as one row, as MLX passes a strided input. Raise CallError for a negative
    stride."""
    if array.flags.c_contiguous:
        return array
    if min(array.strides) < 0:
        raise CallError("an input with a negative stride: MLX has none")
    last = sum((n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True))
    items = last // array.itemsize + 1
    return np.lib.stride_tricks.as_strided(array, (items,), (array.itemsize,)).copy()


def _shape_value(suffix: str, array: np.ndarray) -> np.ndarray:
    if suffix == "_shape":
        return np.array(array.shape, np.int32)
    if suffix == "_strides":
        return np.array(array.strides, np.int64) // array.itemsize
    return np.array(array.ndim, np.int32)


def run_function(
    function: Function,
    name: str,
    grid: Sequence[int],
    threadgroup: Sequence[int],
    buffers: Sequence[Buffer],
    *,
    mode: Mode = "check",
    linted: bool = True,
    as_written: bool = True,
    order: Order = "forward",
    constants: dict[str, bool | int | float] | None = None,
    toolchain: Toolchain | None = None,
) -> Report:
    """Run a kernel that has its own signature, as MLX's kernels do. Write outputs into the buffers' arrays.

    ``buffers`` are in the order of the numbers in the signature; an unused number gets an empty one. Count the loads of
    MLX's kernels with ``as_written=False``, because their source reads one word repeatedly and relies on the compiler
    to load it once. Raises LintError and KernelFault.
    """
    library = build(function, mode, linted=linted, as_written=as_written, toolchain=toolchain)
    report, finished = run(library, name, mode, grid, threadgroup, buffers, order=order, constants=constants)
    if not finished:
        raise KernelFault(report)
    return report
