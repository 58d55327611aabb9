"""The emulator was not written for MLX's own kernels, but runs them to rounding error and finds them clean."""

import numpy as np
import pytest

from metal_kernels.emulator import FindingKind
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from tests.support import mlx_headers

QUANTIZED = ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"]
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
RNG = np.random.default_rng(0)
INT = np.int32


def scalar(value, dtype=INT) -> np.ndarray:
    return np.array([value], dtype)


def mxfp4(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return packed codes [rows, columns / 8], scales [rows, columns / 32], and their values in float64."""
    codes = RNG.integers(0, 16, (rows, columns), dtype=np.uint8)
    scales = RNG.integers(118, 124, (rows, columns // 32)).astype(np.uint8)
    nibbles = codes.reshape(rows, columns // 8, 8).astype(np.uint32)
    packed = (nibbles << (4 * np.arange(8, dtype=np.uint32))).sum(2, dtype=np.uint32)
    return packed, scales, FP4[codes] * np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, axis=1)


def run(function, name, grid, threadgroup, buffers, outputs, **options):
    """Run with buffers by name, in the order of the signature. Outputs start uninitialised."""
    named = [Buffer(key, np.ascontiguousarray(v), 2 if key in outputs else 0, "float32") for key, v in buffers.items()]
    report = run_function(function, name, grid, threadgroup, named, linted=False, **options)
    assert not report.findings, report
    return [b.data for b in named if b.name in outputs], report


def gathered(columns: int, rows: int, experts: int, chosen: list[int]):
    """Return the arguments of fp_gather_qmv for one row and some of many matrices, and the product in float64."""
    parts = [mxfp4(rows, columns) for _ in range(experts)]
    w, s, values = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    x = RNG.standard_normal((1, 1, columns)).astype(np.float32)
    buffers = {
        "w": w,
        "scales": s,
        "global_scale": np.zeros(1, np.float32),
        "x": x,
        "lhs_indices": np.zeros(len(chosen), np.uint32),
        "rhs_indices": np.array(chosen, np.uint32),
        "y": np.zeros((len(chosen), rows), np.float32),
        "in_vec_size": scalar(columns),
        "out_vec_size": scalar(rows),
        "x_batch_ndims": scalar(1),
        "x_shape": np.array(x.shape, INT),
        "x_strides": np.array([columns, columns, 1], np.int64),
        "w_batch_ndims": scalar(1),
        "w_shape": np.array(w.shape, INT),
        "w_strides": np.array([w[0].size, w.shape[2], 1], np.int64),
        "s_strides": np.array([s[0].size, s.shape[2], 1], np.int64),
        "batch_ndims": scalar(1),
        "batch_shape": scalar(len(chosen)),
        "lhs_strides": scalar(1, np.int64),
        "rhs_strides": scalar(1, np.int64),
    }
    return buffers, np.stack([values[e] for e in chosen]) @ x[0, 0].astype(np.float64)


@pytest.mark.parametrize(
    ("name", "columns", "rows"), [("fp_gather_qmv_fast", 512, 64), ("fp_gather_qmv", 288, 40)], ids=["fast", "general"]
)
def test_gathered_mxfp4_matrix_vector_product(name, columns, rows):
    buffers, expected = gathered(columns, rows, experts=6, chosen=[5, 0, 3])
    function = mlx_headers.kernel(QUANTIZED, name, "float, 32, 4")
    (y,), report = run(function, name, (32, rows // 4, 3), (32, 2, 1), buffers, {"y"})
    assert np.abs(y - expected).max() <= 2e-6 * np.abs(expected).max()
    assert report.simd_operations > 0


def test_mxfp4_matrix_vector_product_with_a_ragged_last_tile():
    columns = 288
    rows = 37
    w, s, values = mxfp4(rows, columns)
    x = RNG.standard_normal(columns).astype(np.float32)
    empty = np.zeros(1, np.int64)
    buffers = {
        "w": w,
        "scales": s,
        "global_scale": np.zeros(1, np.float32),
        "x": x,
        "y": np.zeros(rows, np.float32),
        "in_vec_size": scalar(columns),
        "out_vec_size": scalar(rows),
        **dict.fromkeys(("x_batch_ndims", "x_shape", "x_strides", "w_batch_ndims", "w_shape"), empty),
        **dict.fromkeys(("w_strides", "s_strides"), empty),
    }
    function = mlx_headers.kernel(QUANTIZED, "fp_qmv", "float, 32, 4, false")
    named = [Buffer(k, np.ascontiguousarray(v), 2 if k == "y" else 0, "float32") for k, v in buffers.items()]
    report = run_function(function, "fp_qmv", (32, 10, 1), (32, 2, 1), named, linted=False)
    expected = values @ x.astype(np.float64)
    assert np.abs(named[4].data - expected).max() <= 2e-6 * np.abs(expected).max()
    # MLX lets the last tile overlap the one before it, and both write the same sums. This is the only finding.
    assert {finding.kind for finding in report.findings} == {FindingKind.RACE}
    assert all("'y'" in finding.message for finding in report.findings)


def test_attention_with_sinks():
    heads = 8
    kv_heads = 2
    keys = 77
    dim = 64
    q = RNG.standard_normal((heads, dim)).astype(np.float32)
    k, v = RNG.standard_normal((2, kv_heads, keys, dim)).astype(np.float32)
    sinks = RNG.standard_normal(heads).astype(np.float32)
    scale = dim**-0.5
    unused = np.zeros(1, np.float32)
    buffers = {
        "queries": q,
        "keys": k,
        "values": v,
        "out": np.zeros((heads, dim), np.float32),
        "gqa_factor": scalar(heads // kv_heads),
        "N": scalar(keys),
        **{"k_head_stride": scalar(keys * dim, np.uint64), "k_seq_stride": scalar(dim, np.uint64)},
        **{"v_head_stride": scalar(keys * dim, np.uint64), "v_seq_stride": scalar(dim, np.uint64)},
        "scale": scalar(scale, np.float32),
        **dict.fromkeys(("bmask", "fmask", "kv_stride", "q_stride", "head_stride"), unused),
        "sinks": sinks,
        "num_q_heads": scalar(heads),
    }
    function = mlx_headers.kernel(["sdpa_vector.h"], "sdpa_vector", "float, 64")
    flags = dict.fromkeys(("has_mask", "query_transposed", "do_causal", "bool_mask", "float_mask"), False)
    (out,), report = run(
        function,
        "sdpa_vector",
        (heads * 1024, 1, 1),
        (1024, 1, 1),
        buffers,
        {"out"},
        constants={**flags, "has_sinks": True},
    )
    for head in range(heads):
        kv = head // (heads // kv_heads)
        scores = np.append(k[kv].astype(np.float64) @ q[head] * scale, sinks[head])
        weights = np.exp(scores - scores.max())
        expected = (weights[:-1] / weights.sum()) @ v[kv]
        np.testing.assert_allclose(out[head], expected, atol=1e-6)
    assert report.threadgroup_memory == (32 * 32 + 32 + 32) * 4


@pytest.mark.parametrize(
    ("name", "width", "threads"), [("softmax_single_row", 300, 96), ("softmax_looped", 5000, 1024)]
)
def test_softmax(name, width, threads):
    x = 4 * RNG.standard_normal((3, width)).astype(np.float32)
    function = mlx_headers.kernel(["softmax.h"], name, "float, float, 4")
    buffers = {"in": x, "out": np.zeros_like(x), "axis_size": scalar(width)}
    (out,), _ = run(function, name, (3 * threads, 1, 1), (threads, 1, 1), buffers, {"out"})
    weights = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(out, weights / weights.sum(1, keepdims=True), atol=1e-7)


GEMM_PARAMS = np.dtype(
    [(name, INT) for name in ("M", "N", "K", "lda", "ldb", "ldd", "tiles_n", "tiles_m")]
    + [(name, np.int64) for name in ("batch_stride_a", "batch_stride_b", "batch_stride_d")]
    + [(name, INT) for name in ("swizzle_log", "k_iterations", "batch_ndim", "padding")]
)


@pytest.mark.parametrize("rows", [64, 45], ids=["whole tiles", "ragged"])
def test_simdgroup_matrix_product(rows):
    columns = 48
    depth = 40
    tile = 32
    a = RNG.standard_normal((rows, depth)).astype(np.float32)
    b = RNG.standard_normal((depth, columns)).astype(np.float32)
    params = np.zeros(1, GEMM_PARAMS)
    tiles_m = -(-rows // tile)
    tiles_n = -(-columns // tile)
    for name, value in (
        *(("M", rows), ("N", columns), ("K", depth), ("lda", depth), ("ldb", columns), ("ldd", columns)),
        *(("tiles_m", tiles_m), ("tiles_n", tiles_n), ("k_iterations", depth // 16)),
    ):
        params[name] = value
    unused = np.zeros(1, np.float32)
    buffers = {"A": a, "B": b, "C": unused, "D": np.zeros((rows, columns), np.float32), "params": params.view(INT)}
    buffers |= {"addmm": np.zeros(6, INT), "batch_shape": unused, "batch_strides": unused}
    headers = ["steel/gemm/gemm.h", "steel/gemm/kernels/steel_gemm_fused.h"]
    function = mlx_headers.kernel(headers, "gemm", "float, 32, 32, 16, 2, 2, false, false")
    flags = dict.fromkeys(("has_batch", "use_out_source", "do_axpby", "align_N", "align_K"), False)
    (d,), report = run(
        function,
        "gemm",
        (tiles_n * 32, tiles_m * 2, 2),
        (32, 2, 2),
        buffers,
        {"D"},
        constants={**flags, "align_M": rows % tile == 0},
        as_written=False,
    )
    expected = a.astype(np.float64) @ b
    assert np.abs(d - expected).max() <= 2e-6 * np.abs(expected).max()
    assert report.threadgroup_barriers > 0
