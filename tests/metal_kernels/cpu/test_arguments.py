"""The library takes arrays wherever they lie, and leaves those that it cannot take to plain MLX."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.model.experts import memory_of
from metal_kernels import launch, operands
from metal_kernels.cpu import operations
from metal_kernels.operands import Attention, CacheView, Dense
from tests.metal_kernels.cpu.calls import CALLS, arrays
from tests.metal_kernels.cpu.trials.common import F32, Draw
from tests.metal_kernels.shaders.experts import LIMIT
from tests.support.native import architectures, using

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SETTING = LARGE_PAGES.read_text() if LARGE_PAGES.exists() else "[never]"

pytestmark = pytest.mark.skipif(
    not architectures() or launch.where() != "cpu", reason="the native library is not used here"
)


@pytest.fixture(autouse=True)
def best():
    with using():
        yield


def strided(array: mx.array) -> mx.array:
    return mx.repeat(array, 2, axis=-1)[..., ::2]


def turned(array: mx.array) -> mx.array:
    return mx.contiguous(array.swapaxes(0, -1)).swapaxes(0, -1)


def every_other(array: mx.array) -> mx.array:
    return mx.repeat(array, 2, axis=0)[::2]


def one_value(array: mx.array) -> mx.array:
    """Return an array all of whose values are one in memory."""
    return mx.broadcast_to(array.reshape(-1)[:1], array.shape)


LAYOUTS = (strided, turned, every_other, one_value)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def close(one: list[np.ndarray], other: list[np.ndarray], bound: float) -> bool:
    return all(np.abs(a - b).max() <= bound * np.abs(b).max() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_rows_that_do_not_lie_in_one_piece_are_copied(name, layout):
    call = CALLS[name]
    for place in call.rows:
        apart, whole = arrays(3), arrays(3)
        apart[place] = layout(apart[place])
        whole[place] = mx.contiguous(layout(whole[place]))
        got = call.outputs(operations, apart)
        if name == "prefill_attention" and got is None:  # it takes strides, but of whole heads
            assert layout in (strided, turned, one_value)
            got = call.outputs(launch, apart)
            assert close(got, call.outputs(operations, whole), 2e-6)
        else:
            assert got is not None, place
            assert same(got, call.outputs(operations, whole)), place


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_weights_that_do_not_lie_in_one_piece_go_to_plain_mlx(name, layout):
    call = CALLS[name]
    for place in call.weights:
        apart, whole = arrays(3), arrays(3)
        apart[place] = layout(apart[place])
        whole[place] = mx.contiguous(layout(whole[place]))
        want = call.outputs(operations, whole)
        got = call.outputs(operations, apart)
        assert got is None or same(got, want), place  # an array of few rows can lie in one piece all the same
        assert close(call.outputs(launch, apart), want, 2e-6), place


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("name", CALLS)
def test_arrays_may_be_slices_of_one_buffer(name, offset):
    """A model's are, at any multiple of their own size."""
    call = CALLS[name]
    own = {place: arrays(3)[place] for place in (*call.rows, *call.weights)}
    buffer = mx.concatenate([mx.zeros(offset, mx.uint8), *(array.reshape(-1).view(mx.uint8) for array in own.values())])
    sliced = {}
    at = offset
    for place, array in own.items():
        sliced[place] = buffer[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        at += array.nbytes
    want = call.outputs(operations, arrays(3))
    assert same(call.outputs(operations, arrays(3) | sliced), want)


def cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if array.dtype == mx.float32 else array


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("name", CALLS)
def test_dtypes_that_are_not_taken_go_to_plain_mlx(name, dtype):
    """Matrices in bfloat16 are taken, and then give what they give in float32."""
    call = CALLS[name]
    left = 0
    for place in (*call.rows, *call.weights):
        narrow = arrays(3)
        narrow[place] = cast(narrow[place], dtype)
        wide = arrays(3) | {place: narrow[place].astype(mx.float32) if narrow[place].dtype == dtype else narrow[place]}
        want = call.outputs(operations, wide)
        got = call.outputs(operations, narrow)
        left += got is None
        assert got is None or same(got, want), place
        assert close(call.outputs(launch, narrow), want, 0.02), place
    assert left or name.startswith("embed")


@pytest.mark.parametrize("dtype", [mx.int64, mx.uint32, mx.uint8])
@pytest.mark.parametrize("name", ["expert_gate_up", "expert_down_residual", "expert_mlp_grouped"])
def test_slots_of_any_integer_dtype_mean_the_same(name, dtype):
    other = arrays(3) | {"slots": arrays(3)["slots"].astype(dtype)}
    assert close(CALLS[name].outputs(launch, other), CALLS[name].outputs(operations, arrays(3)), 2e-6)


@pytest.mark.parametrize("width", [16, 48, 80])
def test_experts_of_no_whole_groups_are_not_taken(width):
    """Of 48 activated values 32 would have room."""
    draw = Draw(width)
    up = draw.mixture(4, 2 * width, 64)
    x = operands.chunk_major(draw.normal(2, 64), F32)
    logits, slots, stream = draw.normal(2, 4), mx.arange(4), mx.zeros((2, 64))
    assert operations.expert_gate_up(x, logits, slots, up, 2, LIMIT) is None
    down = draw.mixture(4, 64, 64)
    assert operations.expert_mlp_grouped(x, logits, slots, up, down, stream, k=2, limit=LIMIT) is None


def test_heads_of_no_whole_groups_are_not_taken():
    draw = Draw(0)
    q, kv = draw.normal(1, 2, 3, 48), draw.normal(1, 1, 9, 48)
    layer = Attention(draw.normal(2), 0.2, None)
    assert operations.prefill_attention(q, kv, kv, layer) is None
    body, tail = draw.normal(2, 1, 1, 9, 48), draw.normal(2, 1, 1, 64, 48)
    cache = CacheView(body, tail, mx.array([9, 0]), 9)
    assert operations.decode_attention(draw.normal(1, 2, 48), draw.normal(1, 2, 1, 48), [cache], layer) is None
    qkv, x, norm, angle = draw.matrix(4 * 48, 64, "float32"), draw.normal(2, 64), mx.ones(64), draw.normal(2, 24)
    assert operations.norm_qkv_rope(x, norm, 1e-5, qkv, angle, angle, heads=2, kv_heads=1) is None


def test_columns_of_no_whole_groups_are_not_taken():
    draw = Draw(0)
    layer = Dense(draw.normal(10, 48))
    x, norm = draw.normal(2, 48), mx.ones(48)
    assert operations.output_residual(x, layer, draw.normal(2, 10)) is None
    assert operations.norm_head(x, norm, 1e-5, layer) is None
    assert operations.norm_head_argmax(x, norm, 1e-5, layer) is None
    assert operations.norm_router(x, norm, 1e-5, layer, F32) is None
    assert operations.embed(mx.array([1]), layer) is None


def test_a_head_with_a_bias_and_a_router_for_half_rows_are_not_taken():
    draw = Draw(0)
    layer = Dense(draw.normal(10, 64), draw.normal(10))
    x, norm = draw.normal(2, 64), mx.ones(64)
    assert operations.norm_head(x, norm, 1e-5, layer) is None
    assert operations.norm_head_argmax(x, norm, 1e-5, layer) is None
    assert operations.norm_router(x, norm, 1e-5, layer, mx.float16) is None
    assert operations.rope_tables(mx.ones(4), mx.arange(3).astype(mx.uint32)) is None


@pytest.mark.parametrize("size", [1, 4097, 1 << 21, (5 << 21) + 3])
def test_memory_in_large_pages_is_zeros_and_keeps_what_is_written(size):
    """A slice begins anywhere in a page, and may have no whole one. What lies around it stays."""
    values = np.random.default_rng(size).integers(1, 256, size, np.uint8)
    array = mx.concatenate([mx.ones(7, mx.uint8), mx.zeros(size, mx.uint8), mx.ones(7, mx.uint8)])
    mx.eval(array)
    operations.hold_zeros_in_large_pages(array[7:-7])
    around = np.ones(7, np.uint8)
    assert np.array_equal(np.array(array), np.concatenate([around, np.zeros(size, np.uint8), around]))
    memory_of(array)[7:-7] = values
    assert np.array_equal(np.array(array), np.concatenate([around, values, around]))


@pytest.mark.skipif("never" in SETTING.partition("[")[2].partition("]")[0], reason="the system gives no large pages")
def test_room_for_weights_is_in_large_pages_once_it_is_written():
    """Of 32 pages of 2 MB at least one is to be had, however the memory is divided."""
    memory = memory_of(launch.room(64 << 20))
    memory[:] = 1
    first, last = memory.ctypes.data, memory.ctypes.data + memory.nbytes
    large = 0
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) < last and int(found[2], 16) > first
        elif inside and line.startswith("AnonHugePages:"):
            large += int(line.split()[1])
    assert large >= 2048


@pytest.mark.parametrize("id", [-1, 7, 2**31])
def test_an_id_outside_the_table_is_refused_and_nothing_is_read(id):
    table = Dense(mx.zeros((7, 32)))
    with pytest.raises(IndexError, match="bad id"):
        launch.embed(mx.array([0, id], mx.uint32 if id > 0 else mx.int32), table)
    assert launch.embed(mx.array([0, 6]), table).shape == (2, 32)
