"""Kernels compute what numpy does: Metal's types, simd operations, grids and orders."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.emulator import BFloat16, CallError, KernelFault, lint, metal_kernel

RNG = np.random.default_rng(0)
I = "uint i = thread_position_in_grid.x;\n"  # noqa: E741


def run(body, inputs, shape, dtype="float32", *, threads=32, per_group=None, header="", name="k", **options):
    kernel = metal_kernel(name, [f"x{n}" for n in range(len(inputs))], ["out"], I + body, header=header)
    (out,), report = kernel(
        inputs=inputs,
        output_shapes=[shape],
        output_dtypes=[dtype],
        grid=(threads, 1, 1),
        threadgroup=(per_group or threads, 1, 1),
        **options,
    )
    assert not report.findings, report
    return out


def floats_of(array):
    return (array.bits.astype(np.uint32) << 16).view(np.float32)


def test_literals_are_float_and_products_are_not_contracted():
    x = RNG.standard_normal(32).astype(np.float32)
    out = run("out[i] = (x0[i] * 0.1 + 0.2) * 0.3;", [x], (32,))
    f = np.float32
    assert (out == (x * f(0.1) + f(0.2)) * f(0.3)).all()


def test_half_rounds_after_every_operation():
    x = RNG.standard_normal((3, 32)).astype(np.float16)
    out = run("out[i] = x0[i] * x0[32 + i] + x0[64 + i];", [x], (32,), "float16")
    assert (out == x[0] * x[1] + x[2]).all()


def test_half_fma_rounds_once():
    x = RNG.standard_normal((3, 4096)).astype(np.float16)
    out = run("out[i] = fma(x0[i], x0[4096 + i], x0[8192 + i]);", [x], (4096,), "float16", threads=4096, per_group=256)
    wide = x.astype(np.float64)
    assert (out == (wide[0] * wide[1] + wide[2]).astype(np.float16)).all()


def test_bfloat_rounds_to_nearest_even_like_mlx():
    x = RNG.standard_normal(64).astype(np.float32)
    out = run("out[i] = bfloat(x0[i]) * bfloat(x0[32 + i]);", [x], (32,), "bfloat16")
    expected = mx.array(x[:32]).astype(mx.bfloat16) * mx.array(x[32:]).astype(mx.bfloat16)
    assert (floats_of(out) == np.array(expected.astype(mx.float32))).all()


def test_bfloat_arrays_round_trip_through_every_door():
    floats = RNG.standard_normal(32).astype(np.float32)
    copy = "out[i] = x0[i];"
    from_numpy = run(copy, [BFloat16.of(floats)], (32,), "bfloat16")
    from_mlx = run(copy, [mx.array(floats).astype(mx.bfloat16)], (32,), mx.bfloat16)
    assert isinstance(from_mlx, mx.array)
    assert from_mlx.dtype == mx.bfloat16
    assert (floats_of(from_numpy) == np.array(from_mlx.astype(mx.float32))).all()


def test_vectors_swizzle_convert_and_reinterpret():
    x = RNG.standard_normal((32, 4)).astype(np.float16)
    body = """
    half4 h = ((const device half4*)x0)[i];
    float4 f = float4(h);
    f.xy += f.zw;
    uchar4 u = uchar4(1, 2, 3, 4);
    uint w = as_type<uint>(u);
    f += float4(float2(w & 255u, u.y), h.xy) * 0.5f;
    f[3] = -f.w;
    ((device float4*)out)[i] = select(f, float4(7), f > 100.0f);
    """
    f = x.astype(np.float32)
    expected = f.copy()
    expected[:, :2] += f[:, 2:]
    expected += np.concatenate([np.tile(np.float32([1, 2]), (32, 1)), f[:, :2]], 1) * np.float32(0.5)
    expected[:, 3] *= -1
    assert (run(body, [x], (32, 4)) == expected).all()


def test_constant_tables_and_structs_in_device_and_threadgroup_memory():
    header = "constant half TABLE[4] = {half(1), half(2), half(3), half(4)};\nstruct Pair { float a, b; };"
    body = """
    threadgroup Pair pairs[32];
    pairs[i].a = ((const device Pair*)x0)[i].b;
    pairs[i].b = float(TABLE[2]);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = pairs[31 - i].a * pairs[i].b + float(TABLE[i & 3]) + 0.5h;
    """
    x = RNG.standard_normal((32, 2)).astype(np.float32)
    expected = x[::-1, 1] * np.float32(3) + np.float32(1) + (np.arange(32) % 4).astype(np.float32) + np.float32(0.5)
    np.testing.assert_allclose(run(body, [x], (32,), header=header), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("simd_sum(v)", lambda v: np.full(32, v.sum())),
        ("simd_max(v)", lambda v: np.full(32, v.max())),
        ("simd_min(v)", lambda v: np.full(32, v.min())),
        ("simd_prefix_inclusive_sum(v)", np.cumsum),
        ("simd_prefix_exclusive_sum(v)", lambda v: np.cumsum(v) - v),
        ("simd_shuffle(v, ushort(31 - i))", lambda v: v[::-1]),
        ("simd_shuffle_xor(v, 5)", lambda v: v[np.arange(32) ^ 5]),
        ("simd_shuffle_down(v, 3)", lambda v: np.append(v[3:], v[29:])),
        ("simd_shuffle_up(v, 3)", lambda v: np.append(v[:3], v[:-3])),
        ("simd_shuffle_and_fill_down(v, v + 100, 3)", lambda v: np.append(v[3:], v[:3] + 100)),
        ("simd_broadcast(v, 7)", lambda v: np.full(32, v[7])),
        ("simd_broadcast_first(v)", lambda v: np.full(32, v[0])),
        ("quad_sum(v)", lambda v: np.repeat(v.reshape(8, 4).sum(1), 4)),
        ("float(simd_any(v > 30) ? 1 : 0) + float(simd_all(v > 30) ? 2 : 0)", lambda v: np.full(32, 1.0)),
        ("float(popcount(uint(uint64_t(simd_ballot(v > 9)))))", lambda v: np.full(32, (v > 9).sum())),
    ],
)
def test_simd_operations(operation, expected):
    v = RNG.permutation(32).astype(np.float32)
    out = run(f"float v = x0[i]; out[i] = {operation};", [v], (32,))
    assert (out == expected(v)).all()


def test_lanes_that_returned_take_no_part():
    out = run("if (i >= 20) return; out[i] = simd_sum(1.0f);", [], (20,))
    assert (out == 20).all()


def test_the_last_threadgroup_may_be_smaller():
    body = "out[i] = simd_sum(1.0f) + 100 * threads_per_threadgroup.x + 1000 * threadgroups_per_grid.x;"
    out = run(body, [], (100,), threads=100, per_group=64)
    assert (out[:64] == 32 + 6400 + 2000).all()
    assert (out[64:96] == 32 + 3600 + 2000).all()
    assert (out[96:] == 4 + 3600 + 2000).all()


def test_atomics_add_up_and_are_no_race():
    body = "uint i = thread_position_in_grid.x;\natomic_fetch_add_explicit(&out[i % 4], 2u, memory_order_relaxed);"
    kernel = metal_kernel("count", [], ["out"], body, atomic_outputs=True)
    (out,), report = kernel(
        inputs=[],
        output_shapes=[(4,)],
        output_dtypes=["uint32"],
        grid=(1000, 1, 1),
        threadgroup=(100, 1, 1),
        init_value=0,
    )
    assert (out == 500).all()
    assert not report.findings


def test_small_inputs_are_constant_and_scalars_references():
    x = RNG.standard_normal(7).astype(np.float32)
    constant = "const constant float* p = x0; out[i] = p[i % 7] * x1 + float(x1_like);"
    out = run(constant.replace("x1_like", "x2"), [x, np.float32(3), 4], (32,))
    assert np.allclose(out, np.resize(x, 32) * 3 + 4)


def test_strided_inputs_keep_their_strides_only_if_asked():
    x = np.arange(64, dtype=np.float32).reshape(8, 8).T
    body = (
        "uint i = thread_position_in_grid.x;\nout[i] = x[(i / 8) * x_strides[0] + (i % 8) * x_strides[1]] + x_ndim * 0;"
    )
    call = {"inputs": [x], "output_shapes": [(8, 8)], "output_dtypes": ["float32"], "grid": (64, 1, 1)}
    for contiguous in (True, False):
        kernel = metal_kernel("strided", ["x"], ["out"], body, ensure_row_contiguous=contiguous)
        (out,), report = kernel(**call, threadgroup=(64, 1, 1))
        assert (out == x).all()
        assert not report.findings


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_threads_and_threadgroups_run_in_the_order_asked_for(order):
    # A deliberate race. The value of the last thread shows the order of threadgroups, the value each thread leaves for
    # the next the order of threads.
    body = "uint i = thread_position_in_grid.x;\nuint turn = order[0];\norder[1 + turn] = i;\norder[0] = turn + 1;"
    kernel = metal_kernel("order", [], ["order"], body)
    (out,), _ = kernel(
        inputs=[],
        output_shapes=[(129,)],
        output_dtypes=["uint32"],
        grid=(128, 1, 1),
        threadgroup=(64, 1, 1),
        init_value=0,
        order=order,
        mode="fast",
    )
    turns = out[1:].tolist()
    assert sorted(turns) == list(range(128))
    assert (turns == list(range(128))) == (order == "forward")
    assert (turns == list(range(128))[::-1]) == (order == "reversed")


def test_fast_mode_stops_at_the_end_of_a_buffer():
    kernel = metal_kernel("past", ["x"], ["out"], I + "out[i] = x[i + 16];")
    x = np.zeros(16, np.float32)
    with pytest.raises(KernelFault, match=r"out of bounds.*'x', which has 64"):
        kernel(
            inputs=[x],
            output_shapes=[(16,)],
            output_dtypes=["float32"],
            grid=(16, 1, 1),
            threadgroup=(16, 1, 1),
            mode="fast",
        )


def test_deep_private_memory_is_an_error_not_a_crash(monkeypatch):
    monkeypatch.setattr(lint, "private_arrays", lambda *_: [])  # would report the array first
    kernel = metal_kernel(
        "deep",
        ["x"],
        ["out"],
        I + "float a[100000]; for (int k = 0; k < 100000; k++) a[k] = x[i] + k;\nout[i] = a[int(x[i + 1])];",
    )
    with pytest.raises(KernelFault, match="private memory"):
        kernel(
            inputs=[np.zeros(64, np.float32)],
            output_shapes=[(32,)],
            output_dtypes=["float32"],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
            mode="fast",
        )


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_an_endless_loop_is_given_up(mode):
    body = "uint i = thread_position_in_grid.x;\nuint k = 1;\nwhile (k != 0)\n  k += 2 * x[i & 7];\nout[i] = k;"
    kernel = metal_kernel("endless", ["x"], ["out"], body)
    call = {"inputs": [np.ones(8, np.uint32)], "output_shapes": [(8,)], "output_dtypes": ["uint32"], "seconds": 1}
    with pytest.raises(KernelFault, match="still running after 1 seconds"):
        kernel(**call, grid=(8, 1, 1), threadgroup=(8, 1, 1), mode=mode)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": []}, "0 inputs for 1 names"),
        ({"output_dtypes": ["float64"]}, "no Metal type for dtype float64"),
        ({"grid": (0, 1, 1)}, "three positive sizes"),
        ({"grid": (4096, 1, 1), "threadgroup": (2048, 1, 1)}, "a threadgroup of 2048 threads"),
        ({"inputs": ["x"]}, "not an array"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(changed, message):
    kernel = metal_kernel("call", ["x"], ["out"], I + "out[i] = x[i];")
    call = {
        "inputs": [np.zeros(32, np.float32)], "output_shapes": [(32,)], "output_dtypes": ["float32"],
        "grid": (32, 1, 1), "threadgroup": (32, 1, 1),
    }  # fmt: skip
    with pytest.raises(CallError, match=message):
        kernel(**call | changed)


def test_a_body_without_a_thread_attribute_is_refused():
    with pytest.raises(CallError, match="no thread attribute"):
        metal_kernel("same", [], ["out"], "out[0] = 1;")(
            inputs=[], output_shapes=[(1,)], output_dtypes=["float32"], grid=(1, 1, 1), threadgroup=(1, 1, 1)
        )
