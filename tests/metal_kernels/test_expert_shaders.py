"""The expert shaders, emulated: right to rounding, clean, and the same however the work is divided and ordered."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches
from metal_kernels.reference import Experts
from tests.support.kernel_checks import (
    Arrays,
    Case,
    check,
    check_tilings,
    defined,
    dispatch,
    error,
    exact,
    handed,
    results,
    run,
)

OPERATIONS = ("norm_router", "expert_gate_up", "expert_down")
F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
# Groups of 32 below and above the lanes, experts below, at and above them and at no multiple; 1 to 8 rows; each dtype.
CASES = [
    (Case(1, 1056, 64, 32), F32),
    (Case(8, 64, 1056, 128, activations=F32, biases=F32), F32),
    (Case(3, 160, 96, 40, k=2, activations=BF16, biases=F16, residuals=BF16), F16),
    (Case(2, 32, 32, 8, k=8, activations=F16, biases=BF16, residuals=F16), BF16),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=[str(case) for case, _ in CASES])
def test_right_clean_and_the_same_in_every_order(operation, case, handed_on):
    report = check(operation, case, handed_on=handed_on)
    assert report.races == report.uninitialised == 0


@pytest.mark.parametrize("operation", ["expert_gate_up", "expert_down"])
def test_the_same_bits_in_every_tiling(operation):
    check_tilings(operation, CASES[0][0])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_does_not_depend_on_the_rows_beside_it(operation):
    case, _ = CASES[1]
    together, _ = run(dispatch(operation, case), mode="fast")
    a = case.arrays
    row = {"x": a.x[5:6], "normed": a.normed[5:6], "logits": a.logits[5:6], "activated": a.activated[5:6]}
    single = replace(case, rows=1)
    single.__dict__["arrays"] = replace(a, **row)
    alone, _ = run(dispatch(operation, single), mode="fast")
    for all_rows, one in zip(together, alone, strict=True):
        assert mx.array_equal(all_rows[5:6], one)


@pytest.mark.parametrize("operation", ["expert_gate_up", "expert_down"])
@pytest.mark.parametrize("experts", [32, 40])
def test_no_logits_lead_outside_the_weights(operation, experts):
    case = Case(6, 32, 32, experts)
    logits = np.random.default_rng(1).standard_normal((6, experts)).astype(np.float32)
    logits[0] = np.nan
    logits[1] = -np.inf
    logits[2] = np.inf
    logits[3, 5:] = np.nan
    logits[4, 1:] = -np.inf
    logits[5] = 0.25
    case.__dict__["arrays"] = replace(case.arrays, logits=mx.array(logits))
    out, report = run(dispatch(operation, case), mode="check")
    assert not report.findings, str(report)
    sane = [4, 5] if operation == "expert_down" else [5]  # row 4 chooses three experts without weight: any will do
    for got, want in zip(results(operation, out), defined(operation, case), strict=True):
        assert error(got[sane], want[sane]) < 2e-6


def test_every_code_under_every_extreme_of_scale_is_exact():
    """One choice, no bias, no residual, and activations that pick one column: what comes out is the weight itself."""
    codes = np.arange(32, dtype=np.uint32) % 16
    words = [sum(int(c) << (4 * i) for i, c in enumerate(codes[at : at + 8])) for at in range(0, 32, 8)]
    weight = np.tile(np.array(words, np.uint32), (8, 32, 1))
    scales = np.resize(np.array([0, 1, 13, 112, 127, 239, 240], np.uint8), (8, 32, 1))
    down = Experts(mx.array(weight), mx.array(scales), mx.zeros((8, 32)))
    logits, slots = mx.zeros((8, 8)), mx.arange(8, dtype=mx.int32)
    want = np.array(mx.dequantize(down.weight[0], down.scales[0], group_size=32, bits=4, mode="mxfp4", dtype=F32))
    got = []
    for start in range(0, 32, 8):
        picked = mx.eye(8, 32, k=start)[:, None]
        made = dispatches.expert_down_residual(handed(picked), logits, slots, down, mx.zeros((8, 32)))
        got.append(exact(run(made, mode="fast")[0][0]))
    assert np.array_equal(np.concatenate(got).T, want)


@pytest.fixture(scope="module")
def of_20b() -> Case:
    return Case(1, 2880, 2880, 8)  # 8 experts of the 32 hold for all: an expert is only an address


@pytest.mark.parametrize("operation", OPERATIONS)
def test_right_at_the_published_size(operation, of_20b):
    out, _ = run(dispatch(operation, of_20b), mode="fast")
    for got, want in zip(results(operation, out), defined(operation, of_20b), strict=True):
        assert error(got, want) < 2e-6


def test_arrays_no_shader_is_made_for_are_declined():
    a: Arrays = (case := Case(1, 64, 64, 8)).arrays
    x = mx.concatenate([a.x] * 9)
    assert dispatches.norm_router(x, a.norm, 1e-5, a.router, F32) is None
    quantized = a.router._replace(scales=a.router.weight, biases=a.router.weight)
    assert dispatches.norm_router(a.x, a.norm, 1e-5, quantized, F32) is None
    few = a.router._replace(weight=a.router.weight[:7], bias=a.router.bias[:7])  # 7 logits come in constant memory
    assert dispatches.norm_router(a.x, a.norm, 1e-5, few, F32) is None
    assert dispatches.expert_gate_up(a.normed, a.logits, a.slots, a.gate_up, case.k, 7.0) is None  # natural order
    assert dispatches.expert_gate_up(handed(a.normed), a.logits, a.slots, a.gate_up, 9, 7.0) is None
