"""The expert shaders' part of the kernel report: what they read at the published size, and how exact they are, with
MLX's stock kernel beside them on the same weights."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, reference
from metal_kernels.emulator import Report
from metal_kernels.emulator.dispatch import Buffer
from metal_kernels.emulator.kernel import run_function
from tests.support import mlx_headers
from tests.support.kernel_checks import experts as checks
from tests.support.kernel_checks.common import Error, error, exact, run
from tests.support.kernel_checks.experts import Case
from tests.support.kernel_checks.row import Row

QUANTIZED = ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"]


def rows() -> Iterator[Row]:
    """One row through one layer of gpt-oss-20b, half activations, bf16 biases."""
    case = checks.of_20b()
    for operation in checks.OPERATIONS:
        yield measure(operation, case)


def measure(operation: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True) -> Row:
    """Count one operation handing on half beside bf16 biases, and take its error in float32 outputs."""
    _, counted = run(checks.dispatch(operation, case, mx.float16), folder, mode="count")
    # The error is of float32 activations in and float32 out: those of half are the input's, not the shader's.
    exact_case = Case(case.rows, case.hidden, case.inter, case.experts, case.k, activations=mx.float32)
    arrays = {**vars(case.arrays), "normed": case.arrays.normed.astype(mx.float32)}
    arrays["activated"] = case.arrays.activated.astype(mx.float32)
    exact_case.__dict__["arrays"] = checks.Arrays(**arrays)
    out, _ = run(checks.dispatch(operation, exact_case), folder, mode="fast")
    want = checks.defined(operation, case)
    errors = [Error.of(a, b) for a, b in zip(checks.results(operation, out), want, strict=True)]
    read = {name: use for name, use in counted.buffers.items() if use.loads}
    return Row(
        operation,
        {name: use.bytes_issued for name, use in read.items()},
        {name: use.unique_bytes for name, use in read.items()},
        _fewest(operation, case),
        sum(use.lines for use in read.values()),
        max(errors),
        *(_stock(operation, case, want[0]) if stock and operation != "norm_router" else ()),
    )


def _fewest(operation: str, case: Case) -> dict[str, int]:
    """Bytes of each input that one row cannot do without."""
    a = case.arrays
    if operation == "norm_router":
        return {"x": a.x.nbytes, "norm": a.norm.nbytes, "router": a.router.weight.nbytes, "bias": a.router.bias.nbytes}
    experts = a.gate_up if operation == "expert_gate_up" else a.down
    one = {name: array.nbytes // len(array) for name, array in experts._asdict().items()}
    chosen = {name: case.k * nbytes for name, nbytes in one.items()} | {"logits": a.logits.nbytes, "slots": 4 * case.k}
    if operation == "expert_gate_up":
        return chosen | {"normed": a.normed.nbytes}
    return chosen | {"activated": a.activated.nbytes, "residual": a.x.nbytes}


def _stock(operation: str, case: Case, want: np.ndarray) -> tuple[int, Error]:
    """Bytes MLX's kernel for the same product issues on half activations, and its error on float32 ones, after plain
    MLX has added the bias, and done SwiGLU or the weighted sum, in float32."""
    a = case.arrays
    ids, _ = checks.chosen(exact(a.logits)[0], case.k)
    slots = [int(a.slots[e]) for e in ids]
    first = operation == "expert_gate_up"
    experts, x = (a.gate_up, a.normed) if first else (a.down, a.activated[0])
    half, counted = _gather_qmv(experts, np.array(x), slots, "float16_t", "count")
    product, _ = _gather_qmv(experts, np.array(x.astype(mx.float32)), slots, "float", "fast")
    assert error(half.astype(np.float64), product.astype(np.float64)) < 2e-3
    out = mx.array(product) + experts.bias[mx.array(slots)].astype(mx.float32)
    if first:
        got = reference.swiglu(out, checks.LIMIT)[None]
    else:
        got = a.x + (out * reference.top_experts(a.logits, case.k)[1].T).sum(axis=0)
    return counted.bytes_issued, Error.of(exact(got), want)


def _gather_qmv(
    experts: checks.Experts, x: np.ndarray, slots: list[int], type_: str, mode: str
) -> tuple[np.ndarray, Report]:
    """MLX's generic ``fp_gather_qmv``, which 2880 columns take; x [1 or K, C] to [K, R]."""
    weight, scales = np.array(experts.weight), np.array(experts.scales)
    rows, columns = weight.shape[1], x.shape[-1]
    integers = {
        "in_vec_size": columns,
        "out_vec_size": rows,
        "x_batch_ndims": 1,
        "x_shape": [len(x), 1, columns],
        "x_strides": [columns, columns, 1],
        "w_batch_ndims": 1,
        "w_shape": weight.shape,
        "w_strides": [weight[0].size, weight.shape[2], 1],
        "s_strides": [scales[0].size, scales.shape[2], 1],
        "batch_ndims": 1,
        "batch_shape": len(slots),
        "lhs_strides": 1,
        "rhs_strides": 1,
    }
    y = np.zeros((len(slots), rows), x.dtype)
    arrays = {
        "w": weight,
        "scales": scales,
        "global_scale": np.zeros(1, np.float32),
        "x": x,
        "lhs_indices": (np.arange(len(slots)) % len(x)).astype(np.uint32),
        "rhs_indices": np.array(slots, np.uint32),
        "y": y,
    }
    for name, value in integers.items():
        arrays[name] = np.array(value, np.int64 if name.endswith("strides") else np.int32).reshape(-1)
    buffers = [Buffer(name, array, 2 if name == "y" else 0) for name, array in arrays.items()]
    function = mlx_headers.kernel(QUANTIZED, "fp_gather_qmv", f"{type_}, 32, 4")
    grid = (32, rows // 4, len(slots))
    # Its source reads each word once per code, which any compiler makes one load: counted as clang leaves it.
    report = run_function(
        function, "fp_gather_qmv", grid, (32, 2, 1), buffers, mode=mode, linted=False, as_written=False
    )
    return y, report
