"""The expert shaders, emulated: right to rounding, clean, and the same however the work is divided and ordered."""

from dataclasses import replace

import mlx.core as mx
import pytest

from metal_kernels import dispatches
from tests.support.kernel_checks.common import error, run, shader_files
from tests.support.kernel_checks.experts import (
    CASES,
    OPERATIONS,
    TILINGS,
    Arrays,
    Case,
    check,
    check_codes,
    check_logits,
    check_tilings,
    defined,
    dispatch,
    handed,
    published_size,
    results,
)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=[str(case) for case, _ in CASES])
def test_right_clean_and_the_same_in_every_order(operation, case, handed_on):
    report = check(operation, case, handed_on=handed_on)
    assert report.races == report.uninitialised == 0


def test_every_line_of_every_shader_is_reached_by_these_cases():
    places, reached = set(), set()
    for operation in OPERATIONS:
        for case, handed_on in CASES:
            _, report = run(dispatch(operation, case, handed_on), mode="cover")
            places |= report.lines
            reached |= report.lines_reached
    assert {str(place) for place in places - reached} == set()
    # A function no case calls has no code at all, so its lines are not among those.
    lines = {(place.file, place.line) for place in reached}
    for file in {file for operation in OPERATIONS for file in shader_files(operation)}:
        for number, text in enumerate((dispatches.FOLDER / file).read_text().split("\n"), 1):
            assert "return " not in text or (file, number) in lines, f"{file}:{number}"


@pytest.mark.parametrize("operation", TILINGS)
def test_the_same_bits_in_every_tiling(operation):
    check_tilings(operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_does_not_depend_on_the_rows_beside_it(operation):
    case, _ = CASES[2]
    together, _ = run(dispatch(operation, case), mode="fast")
    a = case.arrays
    row = {"x": a.x[5:6], "normed": a.normed[5:6], "logits": a.logits[5:6], "activated": a.activated[5:6]}
    single = replace(case, rows=1)
    single.__dict__["arrays"] = replace(a, **row)
    alone, _ = run(dispatch(operation, single), mode="fast")
    for all_rows, one in zip(together, alone, strict=True):
        assert mx.array_equal(all_rows[5:6], one)


@pytest.mark.parametrize("operation", ["expert_gate_up", "expert_down"])
@pytest.mark.parametrize("experts", [32, 33])
def test_no_logits_lead_outside_the_weights(operation, experts):
    check_logits(operation, experts)


def test_every_code_under_every_extreme_of_scale_is_exact():
    check_codes()


@pytest.fixture(scope="module")
def published() -> Case:
    return published_size(32)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_right_at_the_published_size(operation, published):
    out, _ = run(dispatch(operation, published), mode="fast")
    for got, want in zip(results(operation, out), defined(operation, published), strict=True):
        assert error(got, want) < 2e-6


def test_arrays_no_shader_is_made_for_are_declined():
    a: Arrays = (case := Case(1, 64, 64, 8)).arrays
    x = mx.concatenate([a.x] * 9)
    assert dispatches.norm_router(x, a.norm, 1e-5, a.router, mx.float32) is None
    quantized = a.router._replace(scales=a.router.weight, biases=a.router.weight)
    assert dispatches.norm_router(a.x, a.norm, 1e-5, quantized, mx.float32) is None
    few = a.router._replace(weight=a.router.weight[:7], bias=a.router.bias[:7])  # 7 logits come in constant memory
    assert dispatches.norm_router(a.x, a.norm, 1e-5, few, mx.float32) is None
    assert dispatches.expert_gate_up(a.normed, a.logits, a.slots, a.gate_up, case.k, 7.0) is None  # natural order
    assert dispatches.expert_gate_up(handed(a.normed), a.logits, a.slots, a.gate_up, 9, 7.0) is None
