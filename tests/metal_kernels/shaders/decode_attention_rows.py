"""Rows of the kernel report for decode attention: bytes read at the published size and errors, of our shaders and of
MLX's kernel on the same keys and values."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.emulator import Report
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from tests.metal_kernels.shaders.common import F16, Error, exact, run
from tests.metal_kernels.shaders.decode_attention import Case, as_cache, attended, defined, dispatch
from tests.metal_kernels.shaders.row import Row
from tests.support import mlx_headers

CONSTANT = ("body_shape", "parts_shape", "counts")
"""Inputs in constant memory. They are not counted, neither here nor for MLX's kernel."""


def of_20b(keys: int, window: int | None = None) -> Case:
    """Return one row that sees ``keys`` keys with its own, 40 of them in the tail. 120b has the same heads."""
    body = keys - 41 if window is None else window - 1
    return Case(body, 40, 1, heads=64, kv_heads=8, window=window, unused=64)


def rows() -> Iterator[Row]:
    """Yield the rows of a window and of two full layers. MLX has another kernel for more keys than the first of
    these."""
    yield from measure("window of 128", of_20b(128, 128))
    yield from measure("1,024 keys", of_20b(1024))
    yield from measure("8,192 keys", of_20b(8192), stock=False)


def measure(what: str, case: Case, folder: Path = dispatches.FOLDER, stock: bool = True) -> Iterator[Row]:
    """Count loads with half outputs and a bf16 cache, and take the error of float32 outputs."""
    made = dispatch(case, F16)
    (out, _), counted = run(made, folder, mode="count")
    joined, _, _ = attended(case, folder=folder, mode="fast")
    want = defined(case)
    error = Error.of(exact(joined), want)
    yield _row(f"decode_attention, {what}", counted, _fewest(case), error, *(_stock(case, want) if stock else ()))
    if dispatches.is_split(out):
        _, counted = run(dispatches.decode_attention_combine(out, case.arrays.sinks, F16), folder, mode="count")
        width = out.shape[-1]
        fewest = {"parts": out.nbytes // width * (width - 2), "sinks": case.arrays.sinks.nbytes}
        yield _row(f"decode_attention_combine, {what}", counted, fewest, error)


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
        counted.threadgroups,
        counted.waits,
        stock_issued,
        stock_error,
    )


def _fewest(case: Case) -> dict[str, int]:
    """Return the bytes of each input that one row has to read."""
    a = case.arrays
    row = 2 * case.kv_heads * case.dim * case.kv.size
    seen = min(case.keys + 1, case.window or case.keys + 1)
    fewest = {"q": a.q.nbytes, "kv": row, "body": (seen - 1 - case.tail) * row, "tail": case.tail * row}
    split = case.window is None and seen > dispatches.INSIDE * dispatches.SPLIT_KEYS
    return fewest if split else fewest | {"sinks": a.sinks.nbytes}


def _stock(case: Case, want: np.ndarray) -> tuple[int, Error]:
    """Return the bytes MLX's ``sdpa_vector`` loads from bf16 arrays, and its error on the same values in float32."""
    _, counted = _sdpa_vector(case, "bfloat16_t", "count")
    out, _ = _sdpa_vector(case, "float", "fast")
    issued = sum(counted.buffers[name].bytes_issued for name in ("queries", "keys", "values", "sinks"))
    return issued, Error.of(out.astype(np.float64), want)


def _sdpa_vector(case: Case, type_: str, mode: str) -> tuple[np.ndarray, Report]:
    a = case.arrays
    dim = case.dim
    seen = min(case.keys + 1, case.window or case.keys + 1)
    parts = [a.body[..., : case.body, :], a.tail[..., : case.tail, :], as_cache(a.kv)]
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
