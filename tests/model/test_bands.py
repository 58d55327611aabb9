"""Sliding layers read prompts in bands: the answer is the same, and MLX has a fused kernel for every band."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import reference
from metal_kernels.operands import Attention


@pytest.mark.parametrize(
    ("length", "held", "window"),
    [
        *[(9, 0, 128), (128, 0, 128), (129, 127, 128), (133, 127, 128), (300, 5, 128), (392, 127, 128)],
        *[(9, 0, 1), (200, 0, 1), (1, 0, 1), (200, 4, 5), (70, 1, 2), (200, 63, 64)],
    ],
)
def test_bands_are_attention_under_one_mask(length, held, window):
    rng = np.random.default_rng(length)
    q, k, v = (
        mx.array(rng.standard_normal((1, heads, rows, 64), np.float32))
        for heads, rows in ((8, length), (1, held + length), (1, held + length))
    )
    sinks = mx.array(rng.standard_normal(8, np.float32))
    age = mx.arange(held, held + length)[:, None] - mx.arange(held + length)
    mask = (age >= 0) & (age < window)
    want = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, mask=mask, sinks=sinks)
    got = reference.prefill_attention(q, k, v, Attention(sinks, 0.125, window))
    want = want.transpose(0, 2, 1, 3).reshape(1, length, -1)
    assert mx.abs(got - want).max().item() <= 2e-6 * mx.abs(want).max().item()


@pytest.mark.parametrize("length", [*range(129, 141), 256, 260, 384, 511, 512])
@pytest.mark.parametrize("window", [1, 5, 128])
def test_no_band_is_of_so_few_queries_that_metal_has_no_fused_kernel_for_them(length, window, monkeypatch):
    """With 8 heads to a key/value head, MLX 0.32 has one for at most 32 / 8 queries and one for more than 8."""
    attend = mx.fast.scaled_dot_product_attention
    lengths = []

    def recorded(q, *arguments, **options):
        lengths.append(q.shape[2])
        return attend(q, *arguments, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", recorded)
    q = mx.zeros((1, 8, length, 64))
    k = mx.zeros((1, 1, length + window - 1, 64))
    reference.prefill_attention(q, k, k, Attention(mx.zeros(8), 0.125, window))
    assert sum(lengths) == length
    assert all(8 < count <= 136 for count in lengths)
