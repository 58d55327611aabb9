"""The shaders of the dense products, emulated: right to rounding, clean, and the same however divided and ordered."""

import re

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches, launch
from metal_kernels.reference import Dense
from tests.support.kernel_checks.common import EPS, F32, error, exact, run
from tests.support.kernel_checks.dense import (
    CASES,
    OPERATIONS,
    Case,
    check,
    check_alone,
    check_not_finite,
    check_tilings,
    defined,
    dispatch,
    of_20b,
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
    for name in ("dense.h", "best.h"):
        for number, text in enumerate((dispatches.FOLDER / name).read_text().split("\n"), 1):
            assert not re.search(r"return .*[({]", text) or (name, number) in lines, f"{name}:{number}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_same_bits_in_every_tiling(operation):
    check_tilings(operation)


@pytest.mark.parametrize("operation", OPERATIONS[:-1])
def test_a_row_does_not_depend_on_the_rows_beside_it(operation):
    check_alone(operation)


def test_logits_that_are_not_finite_are_told_and_lead_nowhere_outside_the_vocabulary():
    check_not_finite()


@pytest.mark.parametrize("q8", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS[:-2])
def test_right_at_the_published_size(operation, q8):
    case = of_20b(q8)
    out, _ = run(dispatch(operation, case), mode="fast")
    for got, want in zip(out, defined(operation, case), strict=True):
        assert error(exact(got), want) < 1e-6


@pytest.mark.parametrize(("case", "rows"), [(CASES[1][0], 3), (CASES[4][0], 2)])
def test_the_largest_logit_found_in_two_steps_is_the_largest_of_all(case, rows, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "emulated")
    a = case.arrays
    logits = np.array(launch.norm_head(a.x, a.norm, EPS, a.head))
    tokens, largest = launch.norm_head_argmax(a.x, a.norm, EPS, a.head)
    assert (tokens.shape, tokens.dtype) == ((rows,), mx.uint32)
    assert np.array(largest).tolist() == logits.max(-1).tolist()
    assert np.array(tokens).tolist() == logits.argmax(-1).tolist()  # numpy's is the first of equal ones, too
    assert any((row == row.max()).sum() > 1 for row in logits)


def test_arrays_no_shader_is_made_for_are_declined():
    a = (case := Case(1, 64, 4, 1, 16, 512)).arrays
    x = mx.concatenate([a.x] * 9)
    assert dispatches.norm_head(x, a.norm, EPS, a.head) is None
    assert dispatches.norm_head(a.x.astype(mx.bfloat16), a.norm, EPS, a.head) is None
    assert dispatches.norm_head(a.x, a.norm, EPS, Dense(a.head.weight[:505])) is None
    assert dispatches.norm_head_best(a.x, a.norm, EPS, Dense(a.head.weight[:64])) is None  # one threadgroup: no choice
    assert dispatches.output_residual(a.attended, a.o._replace(bias=None), a.x) is None
    odd = a.qkv._replace(weight=a.qkv.weight[:72], bias=a.qkv.bias[:72])
    assert dispatches.norm_qkv_rope(a.x, a.norm, EPS, odd, a.cos[:, :6], a.sin[:, :6], 4, 1) is None  # heads of 12
    assert dispatch("norm_qkv_rope", case, F32).output_shapes == ((1, 4, 16), (1, 2, 1, 16))
