"""Every shader against its definition in float64: on a Mac on Metal itself, elsewhere in the emulator.

The emulator runs in its fast mode, which shows only that these tests can pass. Races, bounds and outputs never written
are in the tests of each family.
"""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches, launch
from tests.metal_kernels.shaders import decode_attention, dense, experts
from tests.metal_kernels.shaders.common import exact

ALLOWED = {mx.float32: 1e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3, mx.uint32: 0.0}
"""The largest error, as a part of the largest value. A GPU's exp and rsqrt are wrong by a few units in the last
place."""


def run(made):
    return launch.run(made, launch.nearest())


def agree(got, want, dtypes):
    for one, other, dtype in zip(got, want, dtypes, strict=True):
        assert np.isfinite(one).all()
        assert np.abs(one - other).max() <= ALLOWED[dtype] * np.abs(other).max()


@pytest.mark.parametrize(("case", "handed_on"), experts.CASES, ids=str)
@pytest.mark.parametrize("operation", experts.OPERATIONS)
def test_experts(operation, case, handed_on):
    made = experts.dispatch(operation, case, handed_on)
    agree(experts.results(operation, run(made)), experts.defined(operation, case), made.output_dtypes)


@pytest.mark.parametrize(("case", "handed_on"), dense.CASES, ids=str)
@pytest.mark.parametrize("operation", dense.OPERATIONS)
def test_dense_products(operation, case, handed_on):
    made = dense.dispatch(operation, case, handed_on)
    agree([exact(out) for out in run(made)], dense.defined(operation, case), made.output_dtypes)


@pytest.mark.parametrize(("case", "handed_on"), decode_attention.CASES, ids=str)
def test_decode_attention(case, handed_on):
    attended, fresh = run(decode_attention.dispatch(case, handed_on))
    if dispatches.is_split(attended):
        attended = run(dispatches.decode_attention_combine(attended, case.arrays.sinks, handed_on))[0]
    agree([exact(attended)], [decode_attention.defined(case)], [handed_on])
    new = case.arrays.kv.transpose(1, 2, 0, 3)[:, None]
    assert mx.array_equal(fresh[..., case.tail : case.tail + case.new, :], new)
    assert mx.array_equal(fresh[..., : case.tail, :], case.arrays.tail[..., : case.tail, :])
