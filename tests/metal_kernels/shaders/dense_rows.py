"""Rows of the kernel report for the dense products: bytes read at the published size and errors, of our shaders and of
MLX's kernels for the same products."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, reference
from metal_kernels.emulator import BFloat16, Report
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from metal_kernels.operands import Dense
from tests.metal_kernels.shaders.common import BF16, EPS, F32, Error, exact, run
from tests.metal_kernels.shaders.dense import Case, defined, dispatch, of_20b
from tests.metal_kernels.shaders.row import SEVERAL, Row, Several
from tests.support import mlx_headers

UNIFORM = """
namespace metal {
template <class T> using uniform = T;
template <class T> constexpr T make_uniform(T value) { return value; }
}
"""
"""Metal's mark for values that are equal in all threads. The emulator's metal_stdlib has none."""

MATRIX = {"norm_qkv_rope": "qkv", "output_residual": "o", "norm_head": "head", "norm_head_argmax": "head"}
"""The matrix of each shader."""


def rows() -> Iterator[Row]:
    """Yield rows for one layer of gpt-oss-20b or 120b, which have the same dense parts, and for 2,048 rows of the
    head."""
    for q8 in (False, True):
        case = of_20b(q8)
        for operation in MATRIX:
            yield measure(operation, case)


def several() -> Iterator[Several]:
    """Yield the loads of 1, 2, 4 and 8 rows of the input."""
    for q8 in (False, True):
        for operation in ("norm_qkv_rope", "output_residual", "norm_head_argmax"):
            for rows in SEVERAL:
                case = replace(of_20b(q8), rows=rows)
                _, counted = run(dispatch(operation, case, BF16), mode="count")
                yield Several.of(f"{operation}, {'q8' if q8 else 'bf16'}", rows, counted)


def measure(operation: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True) -> Row:
    """Count the loads of one shader with bf16 keys and values, and take the error of float32 outputs."""
    made = dispatch(operation, case, BF16)
    _, counted = run(made, folder, mode="count")
    out, _ = run(dispatch(operation, case, F32), folder, mode="fast")
    want = defined(operation, case)
    read = {name: use for name, use in counted.buffers.items() if use.loads and not name.endswith("_shape")}
    return Row(
        f"{operation}, {'q8' if case.q8 else 'bf16'}",
        {name: use.bytes_issued for name, use in read.items()},
        {name: use.unique_bytes for name, use in read.items()},
        _fewest(operation, case),
        sum(use.lines for use in read.values()),
        max(Error.of(exact(a), b) for a, b in zip(out, want, strict=True)),
        counted.threadgroups,
        counted.waits,
        *(_stock(operation, case, want) if stock and operation != "norm_head_argmax" else ()),
    )


def _fewest(operation: str, case: Case) -> Mapping[str, int]:
    """Return the bytes of each input that one row has to read: all of them."""
    a = case.arrays
    layer = getattr(a, MATRIX[operation])
    arrays = layer._asdict() | {
        "norm_qkv_rope": {"x": a.x, "norm": a.norm, "cosines": a.cos, "sines": a.sin},
        "output_residual": {"attended": a.attended, "residual": a.x},
    }.get(operation, {"x": a.x, "norm": a.norm})
    fewest = {name: array.nbytes for name, array in arrays.items() if array is not None}
    if operation == "norm_qkv_rope":  # values are not rotated
        assert fewest["cosines"] == fewest["sines"] == 4 * case.head_dim // 2
    return fewest


def _stock(operation: str, case: Case, want: list[np.ndarray]) -> tuple[int, Error]:
    """Return the bytes MLX's kernel for the same product loads in bf16, and its error in float32. Norm, bias, RoPE and
    residual around it are plain MLX in float32."""
    a = case.arrays
    layer: Dense = getattr(a, MATRIX[operation])
    x = a.attended if operation == "output_residual" else reference.rms_norm(a.x, a.norm.astype(F32), EPS)
    product, _ = _product(layer, x.astype(F32), "fast")
    _, counted = _product(layer, x.astype(BF16), "count")
    out = mx.array(product)[None]
    if layer.bias is not None:
        out = out + layer.bias.astype(F32)
    got = [out]
    if operation == "output_residual":
        got = [a.x + out]
    if operation == "norm_qkv_rope":
        out = out.reshape(1, -1, case.head_dim)
        turned = reference.rope(out[:, : -case.kv_heads], a.cos, a.sin)
        got = [turned[:, : case.heads], mx.stack([turned[:, case.heads :], out[:, -case.kv_heads :]], axis=1)]
    return counted.bytes_issued, max(Error.of(exact(array), b) for array, b in zip(got, want, strict=True))


def _product(layer: Dense, x: mx.array, mode: str) -> tuple[np.ndarray, Report]:
    """Multiply x [1, C] by MLX's ``gemv``, or for q8 by its ``affine_qmv``. Return [R] in the dtype of x, and the
    report."""
    rows = len(layer.weight)
    columns = x.shape[-1]
    type_ = "float" if x.dtype == F32 else "bfloat16_t"

    def bits(array: mx.array) -> np.ndarray:
        values = np.array(array.astype(F32))
        return values if x.dtype == F32 else BFloat16.of(values).bits

    y = np.zeros(rows, np.float32 if x.dtype == F32 else np.uint16)
    if layer.scales is None or layer.offsets is None:
        height = 8 if rows >= 4096 else 4  # MLX 0.32, mlx/backend/metal/matmul.cpp
        headers = ["gemv.h"]
        name = "gemv"
        template = f"{type_}, {height}, 1, 1, 32, 4, 4, false, false"
        grid = (32 * -(-rows // (4 * height)), 1, height)
        threadgroup = (32, 1, height)
        arrays = {"mat": bits(layer.weight), "in_vec": bits(x), "bias": np.zeros(1, y.dtype), "y": y}
        sizes = {"in_vec_size": columns, "out_vec_size": rows, "matrix_ld": columns, "alpha": 1.0, "beta": 0.0}
        sizes |= {"batch_ndim": 1, "batch_shape": 1, "vector_stride": 0, "matrix_stride": 0, "bias_batch_stride": 0}
        sizes["bias_stride"] = 1
    else:
        fast = "_fast" if columns % 512 == 0 else ""  # MLX 0.32, mlx/backend/metal/quantized.cpp
        headers = ["steel/gemm/gemm.h", "quantized_utils.h", "quantized.h"]
        name = f"affine_qmv{fast}"
        template = f"{type_}, 64, 8, false"
        grid = (32, rows // 4, 1)
        threadgroup = (32, 2, 1)
        arrays = {"w": np.array(layer.weight), "scales": bits(layer.scales), "biases": bits(layer.offsets)}
        arrays |= {"x": bits(x), "y": y}
        sizes = {"in_vec_size": columns, "out_vec_size": rows}
    for size, value in sizes.items():
        type_of = np.float32 if isinstance(value, float) else np.int64 if size.endswith("stride") else np.int32
        arrays[size] = np.array([value], type_of)
    buffers = [Buffer(key, array, 2 if key == "y" else 0) for key, array in arrays.items()]
    function = mlx_headers.kernel(headers, name, template)
    function = replace(function, source=UNIFORM + function.source)
    report = run_function(function, name, grid, threadgroup, buffers, mode=mode, linted=False, as_written=False)
    return y, report
