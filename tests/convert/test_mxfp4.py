"""Weights become the nearest MXFP4 values under the better of two published scales. MXFP4's own values come back."""

import mlx.core as mx
import numpy as np
import pytest

from convert import mxfp4
from convert.mxfp4 import Quantized, quantize_mxfp4
from tests.support.checkpoints import from_bf16, to_bf16

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def decoded(quantized: Quantized) -> np.ndarray:
    words = quantized.blocks.reshape(len(quantized.blocks), -1).view(np.uint32)
    return decoded_by_mlx(mx.array(words), mx.array(quantized.scales))


def decoded_by_mlx(words: mx.array, scales: mx.array) -> np.ndarray:
    return np.array(mx.dequantize(words, scales, mode="mxfp4", group_size=32, bits=4, dtype=mx.float32))


def codes_of(blocks: np.ndarray) -> np.ndarray:
    return np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)


def blocks_of(codes: np.ndarray) -> np.ndarray:
    return codes[..., ::2] | codes[..., 1::2] << 4


def values_of(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode by table, to float32."""
    return np.ldexp(FP4[codes], scales.astype(np.int32)[..., None] - 127)


def by_definition(block: np.ndarray, exponent: int) -> tuple[np.ndarray, float]:
    """Search a block's nearest codes in float64, of two that farther from zero. Return them and the squared error."""
    scaled = block.astype(np.float64) / 2.0**exponent
    distance = np.abs(np.abs(scaled)[:, None] - FP4[:8])
    codes = 7 - np.argmin(distance[:, ::-1], axis=1)  # of equally near ones the larger
    error = float((np.min(distance, axis=1) ** 2).sum() * 4.0**exponent)
    return codes.astype(np.uint8) | np.signbit(block).astype(np.uint8) << 3, error


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_codes_are_nearest_under_the_better_of_the_two_published_scales(dtype):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 320), np.float32) * np.exp2(rng.integers(-30, 30, (40, 1))).astype(np.float32)
    bits = to_bf16(rows)
    values = from_bf16(bits) if dtype == "bfloat16" else rows
    got = quantize_mxfp4(bits if dtype == "bfloat16" else rows)
    differ = 0
    total = 0.0
    codes_got = codes_of(got.blocks).reshape(-1, 32)
    for block, codes, scale in zip(values.reshape(-1, 32), codes_got, got.scales.flat, strict=True):
        largest = float(np.abs(block).max())
        ocp = int(np.floor(np.log2(largest))) - 2
        triton = int(np.ceil(np.log2(largest / 6)))
        assert triton in (ocp, ocp + 1)
        candidates = {exponent: by_definition(block, exponent) for exponent in (ocp, triton)}
        best = min(candidates, key=lambda exponent: candidates[exponent][1])
        assert scale == best + 127
        assert np.array_equal(codes, candidates[best][0])
        differ += ocp != triton
        total += candidates[best][1]
    assert 100 < differ < 300  # of 400
    assert got.error == pytest.approx(total, rel=1e-5)
    assert got.power == pytest.approx(float((values.astype(np.float64) ** 2).sum()), rel=1e-5)


def test_mlx_chooses_the_same_where_both_scales_are_the_same():
    rows = np.random.default_rng(1).standard_normal((64, 2880), np.float32)  # no value is midway between two
    got = quantize_mxfp4(rows)
    words, scales = mx.quantize(mx.array(rows), mode="mxfp4", group_size=32, bits=4)
    mantissas = np.frexp(np.abs(rows).reshape(64, 90, 32).max(-1))[0]
    same = mantissas <= 0.75
    assert 0.5 < same.mean() < 0.9
    assert np.array_equal(np.array(scales)[same], got.scales[same])
    theirs = decoded_by_mlx(words, scales)
    blocks = (64, 90, 32)
    assert np.array_equal(theirs.reshape(blocks)[same], decoded(got).reshape(blocks)[same])
    assert np.linalg.norm(decoded(got) - rows) < 0.98 * np.linalg.norm(theirs - rows)


def test_blocks_that_a_published_rule_made_come_back_byte_for_byte():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (400, 90, 32), np.uint8)
    codes[..., 7] = rng.choice([5, 6, 7, 13, 14, 15], (400, 90))  # the largest is 3, 4 or 6
    codes[..., 8] = rng.choice([1, 3, 9, 11], (400, 90))
    scales = rng.integers(1, 240, (400, 90), np.uint8, endpoint=True)
    got = quantize_mxfp4(to_bf16(values_of(codes, scales).reshape(400, -1)))
    assert np.array_equal(got.scales, scales)
    assert np.array_equal(got.blocks, blocks_of(codes))
    assert got.error == 0


def test_every_block_of_mxfp4_keeps_its_values_and_signs():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (256, 90, 32), np.uint8)
    few = rng.choice([0, 8, 2, 10, 4], codes.shape).astype(np.uint8)
    codes = np.where(rng.random((256, 90, 1)) < 0.5, few, codes)
    scales = rng.integers(0, 240, (256, 90), np.uint8, endpoint=True)
    values = values_of(codes, scales).reshape(256, -1)
    got = quantize_mxfp4(values)
    assert got.error == 0
    assert np.array_equal(decoded(got).view(np.uint32), values.view(np.uint32))
    assert not np.array_equal(got.scales, scales)


@pytest.mark.parametrize(
    ("values", "scale", "back", "back_scale"),
    [
        ([3, 2, -0.5], 120, [3, 2, -0.5], 120),
        ([3, 2, -1], 120, [3, 2, -1], 120),
        ([4, -2, -0.0], 120, [4, -2, -0.0], 120),
        ([6, -1.5], 120, [6, -1.5], 120),
        ([6, -4, 2], 120, [3, -2, 1], 121),
        ([2, 1], 120, [4, 2], 119),
        ([1.5, 0.5], 120, [3, 1], 119),
        ([0.5], 120, [4], 117),
        ([0.5, -0.5], 0, [0.5, -0.5], 0),
        ([6, 2], 0, [3, 1], 1),
        ([3, -2], 0, [3, -2], 0),
        ([0, -0.0], 120, [0, -0.0], 0),
    ],
)
def test_a_block_that_two_scales_can_write(values, scale, back, back_scale):
    """The second of each pair is what comes back. It has the same values."""
    row = np.zeros((1, 32), np.float32)
    row[0, : len(values)] = np.ldexp(np.array(values, np.float32), scale - 127)
    got = quantize_mxfp4(row)
    expected = np.zeros(32, np.float32)
    expected[: len(back)] = back
    assert got.scales.item() == back_scale
    assert np.array_equal(FP4[codes_of(got.blocks)[0, 0]], expected)
    assert np.array_equal(np.signbit(decoded(got)), np.signbit(row))
    assert np.array_equal(decoded(got), row)


def test_a_fine_tune_keeps_the_scales_that_its_base_has():
    """Values beside those of MXFP4 are nearer to them than to what either rule alone makes of them."""
    rng = np.random.default_rng(4)
    base = decoded(quantize_mxfp4(rng.standard_normal((64, 2880), np.float32)))
    noise = 0.01 * np.sqrt((base**2).mean()) * rng.standard_normal(base.shape, np.float32)
    got = quantize_mxfp4(base + noise)
    assert (got.error / got.power) ** 0.5 == pytest.approx(0.01, rel=0.02)
    mlx = mx.quantize(mx.array(base + noise), mode="mxfp4", group_size=32, bits=4)
    assert np.linalg.norm(decoded_by_mlx(*mlx) - base - noise) / np.linalg.norm(base) > 0.03


def test_neither_the_cut_nor_the_order_in_memory_matters(monkeypatch):
    rows = to_bf16(np.random.default_rng(5).standard_normal((96, 160), np.float32))
    whole = quantize_mxfp4(rows)
    monkeypatch.setattr(mxfp4, "_CHUNK", 1000)
    for given in (rows, np.asfortranarray(rows), from_bf16(rows), np.asfortranarray(from_bf16(rows))):
        got = quantize_mxfp4(given)
        assert np.array_equal(got.blocks, whole.blocks)
        assert np.array_equal(got.scales, whole.scales)
        assert got.error == pytest.approx(whole.error)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_shows_in_the_error(value):
    rows = np.ones((2, 64), np.float32)
    rows[1, 40] = value
    assert not np.isfinite(quantize_mxfp4(rows).error)
