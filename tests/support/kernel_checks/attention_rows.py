"""The attention shaders' part of the kernel report: what they read at the published size, and how exact they are, with
MLX's stock kernel beside them on the same keys and values."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.emulator import Report
from metal_kernels.emulator.dispatch import Buffer
from metal_kernels.emulator.kernel import run_function
from tests.support import mlx_headers
from tests.support.kernel_checks import attention as checks
from tests.support.kernel_checks.attention import Case
from tests.support.kernel_checks.common import F16, Error, exact, run
from tests.support.kernel_checks.row import Row

CONSTANT = ("body_shape", "parts_shape", "counts")
"""Inputs in constant memory: not counted, neither here nor for MLX's kernel."""


def of_20b(keys: int, window: int | None = None) -> Case:
    """One row that sees so many keys, its own among them, 40 of them in the tail. 120b's heads are the same."""
    body = keys - 41 if window is None else window - 1
    return Case(body, 40, 1, heads=64, kv_heads=8, window=window, unused=64)


def rows() -> Iterator[Row]:
    """A window, and full layers of a short and of a longer context. MLX's kernel for more keys is another."""
    yield from measure("window of 128", of_20b(128, 128))
    yield from measure("1,024 keys", of_20b(1024))
    yield from measure("8,192 keys", of_20b(8192), stock=False)


def measure(what: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True) -> Iterator[Row]:
    """Count handing on half beside a bf16 cache; the error is that of float32 outputs."""
    (out, _), counted = run(checks.dispatch(case, F16), folder, mode="count")
    joined, _, _ = checks.attended(case, folder=folder, mode="fast")
    want = checks.defined(case)
    error = Error.of(exact(joined), want)
    yield _row(f"attention, {what}", counted, _fewest(case), error, *(_stock(case, want) if stock else ()))
    if dispatches.is_split(out):
        _, counted = run(dispatches.attention_combine(out, case.arrays.sinks, F16), folder, mode="count")
        width = out.shape[-1]
        fewest = {"parts": out.nbytes // width * (width - 2), "sinks": case.arrays.sinks.nbytes}
        yield _row(f"attention_combine, {what}", counted, fewest, error)


def _row(
    operation: str,
    counted: Report,
    fewest: dict[str, int],
    error: Error,
    stock_issued: int | None = None,
    stock_error: Error | None = None,
) -> Row:
    read = {name: use for name, use in counted.buffers.items() if use.loads and name not in CONSTANT}
    return Row(
        operation,
        {name: use.bytes_issued for name, use in read.items()},
        {name: use.unique_bytes for name, use in read.items()},
        fewest,
        sum(use.lines for use in read.values()),
        error,
        stock_issued,
        stock_error,
    )


def _fewest(case: Case) -> dict[str, int]:
    """Bytes of each input that one row cannot do without."""
    a, row = case.arrays, 2 * case.kv_heads * case.dim * case.kv.size
    seen = min(case.keys + 1, case.window or case.keys + 1)
    fewest = {"q": a.q.nbytes, "added": row, "body": (seen - 1 - case.tail) * row, "tail": case.tail * row}
    return fewest if case.window is None and seen > dispatches.SPLIT_KEYS else fewest | {"sinks": a.sinks.nbytes}


def _stock(case: Case, want: np.ndarray) -> tuple[int, Error]:
    """Bytes MLX's ``sdpa_vector`` issues on bf16 arrays, and its error on float32 ones of the same values."""
    _, counted = _sdpa_vector(case, "bfloat16_t", "count")
    out, _ = _sdpa_vector(case, "float", "fast")
    issued = sum(counted.buffers[name].bytes_issued for name in ("queries", "keys", "values", "sinks"))
    return issued, Error.of(out.astype(np.float64), want)


def _sdpa_vector(case: Case, type_: str, mode: str) -> tuple[np.ndarray, Report]:
    a, dim = case.arrays, case.dim
    seen = min(case.keys + 1, case.window or case.keys + 1)
    parts = [a.body[..., : case.body, :], a.tail[..., : case.tail, :], a.kv.transpose(1, 2, 0, 3)[:, None]]
    joined = mx.concatenate(parts, axis=3)[..., -seen:, :]

    def given(array: mx.array) -> np.ndarray:
        wide = np.array(array.astype(mx.float32))
        return wide if type_ == "float" else np.array(array.astype(mx.bfloat16).view(mx.uint16))

    def scalar(value: float, dtype: type) -> np.ndarray:
        return np.array([value], dtype)

    unused = np.zeros(1, np.float32)
    out = np.zeros((case.heads, dim), np.float32 if type_ == "float" else np.uint16)
    arrays = {
        "queries": given(a.q[0]),
        "keys": given(joined[0, 0]),
        "values": given(joined[1, 0]),
        "out": out,
        "gqa_factor": scalar(case.heads // case.kv_heads, np.int32),
        "N": scalar(seen, np.int32),
        "k_head_stride": scalar(seen * dim, np.uint64),
        "k_seq_stride": scalar(dim, np.uint64),
        "v_head_stride": scalar(seen * dim, np.uint64),
        "v_seq_stride": scalar(dim, np.uint64),
        "scale": scalar(case.scale, np.float32),
        **dict.fromkeys(("bmask", "fmask", "kv_stride", "q_stride", "head_stride"), unused),
        "sinks": given(a.sinks),
        "num_q_heads": scalar(case.heads, np.int32),
    }
    flags = dict.fromkeys(("has_mask", "query_transposed", "do_causal", "bool_mask", "float_mask"), False)
    report = run_function(
        mlx_headers.kernel(["sdpa_vector.h"], "sdpa_vector", f"{type_}, {dim}"),
        "sdpa_vector",
        (case.heads * 1024, 1, 1),
        (1024, 1, 1),
        [Buffer(name, array, 2 if name == "out" else 0) for name, array in arrays.items()],
        mode=mode,
        linted=False,
        as_written=False,
        constants={**flags, "has_sinks": True},
    )
    return out.reshape(1, -1), report
