"""Repacked codes have the published codes' values, and q8 is as close as eight bits allow."""

import mlx.core as mx
import numpy as np
import pytest

from convert.repack import blocks_from_words, dequantize_rows, q8_error, quantize_rows, words_from_blocks
from tests.support.checkpoints import from_bf16, to_bf16

FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
FP4 += [-value for value in FP4]


def test_mlx_decodes_the_words_as_the_published_blocks_are_defined():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 5, 4, 16), np.uint8)
    scales = rng.integers(110, 130, (3, 5, 4), np.uint8)

    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(3, 5, 4, 32)  # low nibble first
    expected = np.array(FP4, np.float32)[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]

    words = words_from_blocks(blocks)
    assert words.shape == (3, 5, 16)
    got = mx.dequantize(mx.array(words), mx.array(scales), mode="mxfp4", group_size=32, bits=4, dtype=mx.float32)
    assert np.array_equal(np.array(got), expected.reshape(3, 5, 128))


def test_words_are_a_view_and_go_back_to_the_same_blocks():
    blocks = np.random.default_rng(1).integers(0, 256, (2, 6, 3, 16), np.uint8)
    words = words_from_blocks(blocks)
    assert np.shares_memory(words, blocks)
    assert np.array_equal(blocks_from_words(words), blocks)


def relative_error(quantized, rows):
    weight, scales, biases = quantized
    decoded = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size=64, bits=8)
    values = from_bf16(rows)
    return np.linalg.norm(np.array(decoded) - values) / np.linalg.norm(values)


def test_q8_is_closer_than_mlx_own_codes_under_the_same_scales():
    rows = to_bf16(np.random.default_rng(2).standard_normal((64, 2880), np.float32) * 0.02)
    weight, scales, biases = quantize_rows(rows)
    assert (weight.dtype, weight.shape) == (np.uint32, (64, 720))
    assert (scales.dtype, scales.shape) == (biases.dtype, biases.shape) == (np.uint16, (64, 45))

    ours = mx.array(weight), mx.array(scales).view(mx.bfloat16), mx.array(biases).view(mx.bfloat16)
    theirs = mx.quantize(mx.array(rows).view(mx.bfloat16), group_size=64, bits=8)
    assert mx.array_equal(ours[1], theirs[1])
    assert mx.array_equal(ours[2], theirs[2])
    assert relative_error(ours, rows) < 0.0056
    assert relative_error(ours, rows) < 0.85 * relative_error(theirs, rows)


def test_q8_keeps_constant_and_zero_groups():
    rows = to_bf16(np.repeat([[0.0], [1.5], [-3.0]], 64, axis=1))
    weight, scales, biases = (mx.array(array) for array in quantize_rows(rows))
    got = mx.dequantize(weight, scales.view(mx.bfloat16), biases.view(mx.bfloat16), group_size=64, bits=8)
    assert np.allclose(np.array(got.astype(mx.float32)), from_bf16(rows), atol=1e-6)


def test_q8_does_not_depend_on_the_cut_into_rows():
    rows = to_bf16(np.random.default_rng(3).standard_normal((10, 128), np.float32))
    whole = quantize_rows(rows)
    parts = [quantize_rows(rows[:3]), quantize_rows(rows[3:])]
    for index in range(3):
        assert np.array_equal(whole[index], np.concatenate([part[index] for part in parts]))


def groups(kind, rng):
    """Rows that are hard for q8: ends of equal magnitude, a narrow range far from zero, tiny, constant, huge."""
    shape = (256, 640)
    if kind == "normal":
        return rng.standard_normal(shape, np.float32)
    if kind == "two ends":
        width = rng.choice([1e-3, 1e-2, 1e-1], (256, 1)).astype(np.float32)
        return np.sign(rng.standard_normal(shape)).astype(np.float32) * (1 + width * rng.random(shape, np.float32))
    if kind == "narrow":
        return 1 + 1e-3 * rng.random(shape, np.float32)
    if kind == "tiny":
        return rng.standard_normal(shape, np.float32) * 10 ** rng.uniform(-9, -4, (256, 1)).astype(np.float32)
    if kind == "constant":
        return np.repeat(rng.standard_normal((256, 10), np.float32), 64, axis=1)
    return rng.standard_cauchy(shape).astype(np.float32) * np.float32(1e30)


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["normal", "two ends", "narrow", "tiny", "constant", "huge"])
def test_no_q8_value_is_further_off_than_its_bound(kind, form):
    rng = np.random.default_rng(4)
    rows = groups(kind, rng) if form == "float32" else to_bf16(groups(kind, rng))
    assert q8_error(rows, *quantize_rows(rows)).max() <= 1


def test_the_bound_is_half_a_step_as_mlx_decodes_it_and_a_wrong_code_exceeds_it():
    rows = to_bf16(np.random.default_rng(5).standard_normal((64, 640), np.float32))
    weight, scales, biases = quantize_rows(rows)
    decoded = np.array(
        mx.dequantize(mx.array(weight), *map(mx.array, map(from_bf16, (scales, biases))), group_size=64, bits=8)
    )
    assert np.array_equal(dequantize_rows(weight, scales, biases), decoded)
    steps = np.repeat(np.abs(from_bf16(scales)), 64, axis=1)
    codes = weight.view(np.uint8).reshape(rows.shape)
    inside = (codes > 0) & (codes < 254)
    errors = q8_error(rows, weight, scales, biases)
    expected = np.abs(decoded - from_bf16(rows)) / (steps / 2)
    assert np.allclose(errors[inside], expected[inside], atol=1e-3)
    assert errors[inside].max() > 0.99
    moved = (codes + inside).astype(np.uint8).view("<u4")
    sure = inside & (errors < 0.99)  # in the middle between two codes both are allowed
    assert q8_error(rows, moved, scales, biases)[sure].min() > 1
