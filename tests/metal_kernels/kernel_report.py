"""Writes kernel-report.md: what the expert shaders read at the published size, counted in the emulator, and how exact
they are, with MLX's stock kernel beside them on the same weights in the same run.

Run as ``python -m tests.metal_kernels.kernel_report [FILE]``. Nothing in it was measured on a GPU.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches, reference
from metal_kernels.emulator import Report
from metal_kernels.emulator.dispatch import Buffer
from metal_kernels.emulator.kernel import run_function
from tests.support import kernel_checks as checks
from tests.support import mlx_headers
from tests.support.kernel_checks import Case

FILE = Path(__file__).parent.parent.parent / "kernel-report.md"
QUANTIZED = ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"]


@dataclass(frozen=True)
class Row:
    """One operation: bytes by buffer as counted, the fewest it could read, and errors as parts of the largest value."""

    operation: str
    issued: Mapping[str, int]
    unique: Mapping[str, int]
    fewest: Mapping[str, int]
    lines: int
    error: checks.Error
    stock_issued: int | None = None
    stock_error: checks.Error | None = None

    @property
    def total(self) -> int:
        return sum(self.issued.values())

    @property
    def unique_to_fewest(self) -> float:
        return sum(self.unique.values()) / sum(self.fewest.values())

    @property
    def weights_once(self) -> bool:
        """Whether each byte of weights and scales that has to be read is loaded exactly once."""
        return all(self.issued[name] == self.fewest[name] for name in ("weight", "scales"))


def measure(operation: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True) -> Row:
    """Count one operation handing on half beside bf16 biases, and take its error in float32 outputs."""
    _, counted = checks.run(checks.dispatch(operation, case, mx.float16), folder, mode="count")
    # The error is of float32 activations in and float32 out: those of half are the input's, not the shader's.
    exact_case = Case(case.rows, case.hidden, case.inter, case.experts, case.k, activations=mx.float32)
    arrays = {**vars(case.arrays), "normed": case.arrays.normed.astype(mx.float32)}
    arrays["activated"] = case.arrays.activated.astype(mx.float32)
    exact_case.__dict__["arrays"] = checks.Arrays(**arrays)
    out, _ = checks.run(checks.dispatch(operation, exact_case), folder, mode="fast")
    want = checks.defined(operation, case)
    errors = [checks.Error.of(a, b) for a, b in zip(checks.results(operation, out), want, strict=True)]
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


def _stock(operation: str, case: Case, want: np.ndarray) -> tuple[int, checks.Error]:
    """Bytes MLX's kernel for the same product issues on half activations, and its error on float32 ones, after plain
    MLX has added the bias, and done SwiGLU or the weighted sum, in float32."""
    a = case.arrays
    ids, shares = checks.chosen(checks.exact(a.logits)[0], case.k)
    slots = [int(a.slots[e]) for e in ids]
    first = operation == "expert_gate_up"
    experts, x = (a.gate_up, a.normed) if first else (a.down, a.activated[0])
    half, counted = _gather_qmv(experts, np.array(x), slots, "float16_t", "count")
    product, _ = _gather_qmv(experts, np.array(x.astype(mx.float32)), slots, "float", "fast")
    assert checks.error(half.astype(np.float64), product.astype(np.float64)) < 2e-3
    out = mx.array(product) + experts.bias[mx.array(slots)].astype(mx.float32)
    if first:
        got = reference.swiglu(out, checks.LIMIT)[None]
    else:
        got = a.x + (out * mx.array(shares.astype(np.float32))[:, None]).sum(axis=0)
    return counted.bytes_issued, checks.Error.of(checks.exact(got), want)


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


def table(rows: list[Row]) -> str:
    """The report's text."""
    lines = [
        "# The expert shaders, counted",
        "",
        "Written by `make kernel-report`. One row through one layer of gpt-oss-20b, half activations, bf16 biases.",
        "Emulated: nothing here was measured on a GPU. MB issued are those of all loads, ours as the source has",
        "them, those of MLX's kernel as clang leaves them. Errors are of float32 outputs against float64, the largest",
        "and the root mean square, as parts of the largest value; MLX's product is finished by plain MLX in float32.",
        "",
        "| shader | issued MB | weights | unique / fewest | weights once | lines | error | MLX issued MB | MLX error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        weights = sum(row.issued.get(name, 0) for name in ("weight", "scales", "router")) / 1e6
        stock = ("", "") if row.stock_issued is None else (f"{row.stock_issued / 1e6:.2f}", str(row.stock_error))
        once = "" if row.operation == "norm_router" else "yes" if row.weights_once else "NO"
        lines.append(
            f"| {row.operation} | {row.total / 1e6:.2f} | {weights:.2f} | {row.unique_to_fewest:.2f} | {once} | "
            f"{row.lines} | {row.error} | {stock[0]} | {stock[1]} |"
        )
    lines += ["", "Bytes issued, by input:", ""]
    for row in rows:
        lines.append(f"- {row.operation}: " + ", ".join(f"{name} {count}" for name, count in row.issued.items()))
    return "\n".join(lines) + "\n"


def main() -> None:
    case = checks.of_20b()
    text = table([measure(name, case) for name in ("norm_router", "expert_gate_up", "expert_down")])
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
