"""Dense layers in 8 bits, as models are converted by default, compute with the values their codes stand for."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import float32_sums, operands, reference

ROWS = 96
COLUMNS = 128
GROUP = 64


@pytest.fixture(scope="module")
def stored():
    """Return a q8 layer, its values in float64 (code * scale + offset), and its bias."""
    rng = np.random.default_rng(11)
    codes = rng.integers(0, 256, (ROWS, COLUMNS), np.uint8)
    scales = rng.uniform(0.001, 0.003, (ROWS, COLUMNS // GROUP)).astype(np.float32)
    offsets = rng.uniform(-0.3, -0.1, scales.shape).astype(np.float32)
    out_bias = rng.standard_normal(ROWS).astype(np.float32)
    layer = operands.Dense(mx.array(codes.view("<u4")), mx.array(out_bias), mx.array(scales), mx.array(offsets))
    scale, offset = (np.repeat(each.astype(np.float64), GROUP, axis=1) for each in (scales, offsets))
    return layer, codes * scale + offset, out_bias


@pytest.mark.parametrize("rows", [1, float32_sums.MANY_ROWS - 1, float32_sums.MANY_ROWS, 40])
@pytest.mark.parametrize("dense", [reference.dense, float32_sums.dense])
def test_a_product_is_that_of_the_stored_values_for_few_rows_and_for_many(stored, dense, rows):
    layer, values, out_bias = stored
    x = np.random.default_rng(rows).standard_normal((rows, COLUMNS)).astype(np.float32)
    want = x @ values.T + out_bias
    np.testing.assert_allclose(np.array(dense(mx.array(x), layer)), want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_an_embedding_is_the_stored_rows(stored):
    layer, values, _ = stored
    tokens = [[0, 95, 7], [7, 1, 0]]
    np.testing.assert_allclose(np.array(reference.embed(mx.array(tokens), layer)), values[tokens], rtol=0, atol=1e-6)
