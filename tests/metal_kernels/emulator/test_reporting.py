"""The counts of a report, and what the modes for one purpose show."""

import numpy as np
import pytest

from metal_kernels.emulator import metal_kernel

X = np.arange(4096, dtype=np.float32)
I = "uint i = thread_position_in_grid.x;\n"  # noqa: E741


def report_of(body, mode="count", threads=1024, **options):
    kernel = metal_kernel("counted", ["x"], ["out"], I + body, **options)
    call = {"inputs": [X], "output_shapes": [(threads,)], "output_dtypes": ["float32"]}
    _, report = kernel(**call, grid=(threads, 1, 1), threadgroup=(128, 1, 1), mode=mode)
    return report


@pytest.mark.parametrize("mode", ["count", "check"])
def test_every_load_counts_as_written(mode):
    once = report_of("out[i] = x[i];", mode).buffers["x"]
    twice = report_of("out[i] = x[i] + x[i];", mode).buffers["x"]
    assert (once.loads, once.bytes_issued, once.unique_bytes) == (1024, 4096, 4096)
    assert (twice.loads, twice.bytes_issued, twice.unique_bytes) == (2048, 8192, 4096)


def test_a_vector_is_one_load_even_where_only_parts_are_used():
    use = report_of("float4 v = ((const device float4*)x)[i]; out[i] = v.x + v.w;").buffers["x"]
    assert (use.loads, use.bytes_issued, use.unique_bytes) == (1024, 16384, 16384)
    part = report_of("out[i] = ((const device float4*)x)[i].y;").buffers["x"]
    assert (part.loads, part.bytes_issued) == (1024, 4096)


def test_stores_and_threadgroup_traffic():
    body = """
    threadgroup float4 t[128];
    uint l = thread_index_in_threadgroup;
    t[l] = float4(x[i]);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = t[l ^ 1].x;
    simdgroup_barrier(mem_flags::mem_none);
    out[i] = simd_sum(t[l].y);
    """
    report = report_of(body)
    assert (report.threadgroups, report.threads) == (8, 1024)
    assert (report.threadgroup_barriers, report.simdgroup_barriers, report.simd_operations) == (8, 32, 32)
    assert report.threadgroup_memory == 2048
    assert (report.threadgroup_stores, report.threadgroup_bytes_written) == (1024, 16384)
    assert (report.threadgroup_loads, report.threadgroup_bytes_read) == (2048, 8192)
    assert (report.buffers["out"].stores, report.buffers["out"].unique_bytes_stored) == (2048, 4096)


@pytest.mark.parametrize(("stride", "lines"), [(1, 1), (2, 2), (4, 4)])
def test_lines_are_counted_per_simdgroup_and_load(stride, lines):
    assert report_of(f"out[i] = x[i * {stride}];").buffers["x"].lines == 32 * lines


def test_loads_between_two_meetings_of_lanes_are_one_wait():
    together = "float a = x[i], b = x[i ^ 1];\nout[i] = simd_sum(a) + simd_sum(b);"
    apart = "float a = simd_sum(x[i]);\nout[i] = a + simd_sum(x[i ^ 1]);"
    looped = "float a = 0;\nfor (int k = 0; k < 5; k++)\n  a += simd_sum(x[i + k]);\nout[i] = a + x[i];"
    assert [report_of(body).waits for body in (together, apart, looped)] == [1, 2, 6]


def test_each_turn_of_a_loop_requests_its_lines_again():
    body = "float s = 0;\nfor (int k = 0; k < 5; k++)\n  s += x[i];\nout[i] = s;"
    use = report_of(body).buffers["x"]
    assert (use.lines, use.loads) == (5 * 32, 5 * 1024)


def test_counts_do_not_depend_on_the_order():
    body = "float s = 0;\nfor (uint k = 0; k < i % 7; k++)\n  s += x[i + k];\nout[i] = simd_sum(s);"
    kernel = metal_kernel("counted", ["x"], ["out"], I + body)
    call = {"inputs": [X], "output_shapes": [(1024,)], "output_dtypes": ["float32"], "mode": "count"}
    results = [
        kernel(**call, grid=(1024, 1, 1), threadgroup=(128, 1, 1), order=order)
        for order in ("forward", "reversed", "shuffled")
    ]
    (first,), reference = results[0]
    for (out,), report in results[1:]:
        assert (out == first).all()
        assert report.buffers == reference.buffers


def test_cover_mode_names_the_lines_no_thread_reached():
    body = "float v = x[i];\nif (v > 9999)\n  v = twice(v);\nif (v > 2)\n  v += 1;\nout[i] = v;"
    header = "METAL_FUNC float twice(float v) {\n  return 2 * v;\n}"
    report = report_of(body, "cover", header=header)
    missed = [(place.file, place.line) for place in report.lines_missed]
    assert ("counted (source)", 4) in missed  # the line that defines i comes before the body's lines
    assert ("counted (header)", 2) in missed
    assert ("counted (source)", 6) not in missed
    assert {place.line for place in report.lines_reached if "source" in place.file} >= {2, 3, 5, 6, 7}


def test_flush_mode_shows_what_depends_on_subnormals():
    bits = np.array([0x0001, 0x03FF, 0x8001, 0x0400, 0x3C00, 0x0000, 0x0200, 0x7C00], np.uint16)
    kernel = metal_kernel("flush", ["x"], ["out"], I + "out[i] = float(as_type<half>(x[i])) * 16384.0f;")
    call = {"inputs": [bits], "output_shapes": [(8,)], "output_dtypes": ["float32"], "mode": "fast"}
    call |= {"grid": (8, 1, 1), "threadgroup": (8, 1, 1)}
    (kept,), _ = kernel(**call)
    (flushed,), _ = kernel(**call, flush_subnormals=True)
    values = bits.view(np.float16).astype(np.float32)
    assert (kept == values * 16384).all()
    tiny = np.abs(values) < np.float32(6.1035156e-05)
    assert (flushed == np.where(tiny, 0, values * 16384)).all()
    assert tiny.sum() == 5


def test_flush_mode_flushes_float_arithmetic():
    x = np.full(8, 1e-30, np.float32)
    kernel = metal_kernel("flush", ["x"], ["out"], I + "out[i] = x[i] * 1e-10f * 1e10f;")
    call = {"inputs": [x], "output_shapes": [(8,)], "output_dtypes": ["float32"], "mode": "fast"}
    call |= {"grid": (8, 1, 1), "threadgroup": (8, 1, 1)}
    assert kernel(**call)[0][0][0] > 0
    assert kernel(**call, flush_subnormals=True)[0][0][0] == 0
    assert (x * np.float32(1e-10))[0] > 0  # flushing ends with the run


def test_readers_of_one_simdgroup_are_ordered_by_its_barrier():
    body = """
    threadgroup float t[128];
    uint l = thread_index_in_threadgroup, base = l / 32 * 32;
    t[l] = x[i];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    float s = t[base] + t[l];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (l == base)
      t[base] = s;
    out[i] = s;
    """
    assert not report_of(body, "check").findings
