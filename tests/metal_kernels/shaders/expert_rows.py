"""Rows of the kernel report for norm + router and the experts: bytes read at the published size and errors, of our
shaders and of MLX's kernel on the same weights."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, reference
from metal_kernels.emulator import Report
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from metal_kernels.operands import Experts
from tests.metal_kernels.shaders.common import Error, exact, run
from tests.metal_kernels.shaders.experts import (
    LIMIT,
    OPERATIONS,
    Case,
    chosen,
    defined,
    dispatch,
    published_size,
    results,
)
from tests.metal_kernels.shaders.row import SEVERAL, Row, Several
from tests.support import mlx_headers

QUANTIZED = ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"]


def rows() -> Iterator[Row]:
    """Yield rows for one layer of gpt-oss-20b and of 120b, with half activations and bf16 biases."""
    for experts, model, draws in ((32, "", 12), (128, ", 120b", 3)):
        case = published_size(experts)
        for operation in OPERATIONS:
            row = measure(operation, case, draws=draws)
            yield replace(row, operation=operation + model)


def several() -> Iterator[Several]:
    """Yield the loads of 1, 2, 4 and 8 rows that choose among the experts of 20b and 120b at random. Their matrices are
    a ninth as wide and as long."""
    for experts, model in ((32, ""), (128, ", 120b")):
        for operation in OPERATIONS[1:]:
            for rows in SEVERAL:
                case = Case(rows, 320, 320, experts)
                _, counted = run(dispatch(operation, case, mx.float16), mode="count")
                yield Several.of(operation + model, rows, counted)


def measure(operation: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True, draws: int = 1) -> Row:
    """Count the loads of one shader with half rows and bf16 biases, and take the error of float32 outputs.

    The error is the mean over ``draws`` inputs, because it is luck which roundings meet in the largest.
    """
    _, counted = run(dispatch(operation, case, mx.float16), folder, mode="count")
    read = {name: use for name, use in counted.buffers.items() if use.loads}
    compared = stock and operation != "norm_router"
    errors = []
    stock_errors = []
    for draw in range(draws):
        drawn = _drawn(case, draw)
        out, _ = run(dispatch(operation, drawn), folder, mode="fast")
        want = defined(operation, drawn)
        errors.append(max(Error.of(a, b) for a, b in zip(results(operation, out), want, strict=True)))
        if compared:
            stock_errors.append(_stock_error(operation, drawn, want[0]))
    return Row(
        operation,
        {name: use.bytes_issued for name, use in read.items()},
        {name: use.unique_bytes for name, use in read.items()},
        _fewest(operation, case),
        sum(use.lines for use in read.values()),
        Error.mean(errors),
        counted.threadgroups,
        counted.waits,
        *((_stock_product(operation, case, "float16_t", "count")[1], Error.mean(stock_errors)) if compared else ()),
    )


def _drawn(case: Case, draw: int) -> Case:
    """Return the case with other activations. They are in float32, because half would add the input's own error."""
    rng = np.random.default_rng(draw)
    a = case.arrays
    others = {
        name: mx.array(rng.standard_normal(array.shape).astype(np.float16).astype(np.float32))
        for name, array in (("normed", a.normed), ("activated", a.activated))
    }
    others["x"] = mx.array(5 * rng.standard_normal(a.x.shape).astype(np.float32))
    return case.having(**others)


def _fewest(operation: str, case: Case) -> dict[str, int]:
    """Return the bytes of each input that one row has to read."""
    a = case.arrays
    if operation == "norm_router":
        return {"x": a.x.nbytes, "norm": a.norm.nbytes, "router": a.router.weight.nbytes, "bias": a.router.bias.nbytes}
    experts = a.gate_up if operation == "expert_gate_up" else a.down
    one = {name: array.nbytes // len(array) for name, array in experts._asdict().items()}
    fewest = {name: case.k * nbytes for name, nbytes in one.items()} | {"logits": a.logits.nbytes, "slots": 4 * case.k}
    if operation == "expert_gate_up":
        return fewest | {"normed": a.normed.nbytes}
    return fewest | {"activated": a.activated.nbytes, "residual": a.x.nbytes}


def _stock_product(operation: str, case: Case, type_: str, mode: str) -> tuple[np.ndarray, int]:
    """Run MLX's kernel for the same product on activations of a type. Return [K, R] and the bytes it loads."""
    a = case.arrays
    slots = [int(a.slots[e]) for e in chosen(exact(a.logits)[0], case.k)[0]]
    experts, x = (a.gate_up, a.normed) if operation == "expert_gate_up" else (a.down, a.activated[0])
    product, counted = _gather_qmv(experts, np.array(x), slots, type_, mode)
    return product, counted.bytes_issued


def _stock_error(operation: str, case: Case, want: np.ndarray) -> Error:
    """Return the error of MLX's product. Bias, and SwiGLU or the weighted sum, are plain MLX in float32."""
    a = case.arrays
    product, _ = _stock_product(operation, case, "float", "fast")
    ids, shares = reference.top_experts(a.logits, case.k)
    experts = a.gate_up if operation == "expert_gate_up" else a.down
    out = mx.array(product) + experts.bias[a.slots[ids[0]]].astype(mx.float32)
    if operation == "expert_gate_up":
        got = reference.swiglu(out, LIMIT)[None]
    else:
        got = a.x + (out * shares.T).sum(axis=0)
    return Error.of(exact(got), want)


def _gather_qmv(experts: Experts, x: np.ndarray, slots: list[int], type_: str, mode: str) -> tuple[np.ndarray, Report]:
    """Multiply x [1 or K, C] by MLX's generic ``fp_gather_qmv``, which 2880 columns take. Return [K, R] and the
    report."""
    weight = np.array(experts.weight)
    scales = np.array(experts.scales)
    rows = weight.shape[1]
    columns = x.shape[-1]
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
    # Its source reads each word once per code, which any compiler makes one load. So it is counted as clang leaves it.
    report = run_function(
        function, "fp_gather_qmv", grid, (32, 2, 1), buffers, mode=mode, linted=False, as_written=False
    )
    return y, report
