"""The shaders of the dense products, emulated: right to rounding, clean, and the same however divided and ordered."""

import re
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches, launch
from metal_kernels.operands import Dense
from tests.metal_kernels.shaders.common import EPS, F32, ROUNDING, error, exact, in_range, retiled, run, same
from tests.metal_kernels.shaders.dense import (
    CASES,
    OPERATIONS,
    TILINGS,
    Case,
    best_of,
    defined,
    defined_logits,
    dispatch,
    edges,
    of_20b,
)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=[str(case) for case, _ in CASES])
def test_right_clean_and_the_same_in_every_order(operation, case, handed_on, folder):
    made = dispatch(operation, case, handed_on)
    outputs, report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    for got, want, dtype in zip(map(exact, outputs), defined(operation, case), made.output_dtypes, strict=True):
        assert np.isfinite(got).all()
        assert error(got, want) <= ROUNDING[dtype]
    for order in ("reversed", "shuffled"):
        again, report = run(made, folder, mode="check", order=order)
        assert not report.findings, str(report)
        assert same(outputs, again), order


EDGES = edges()


@pytest.mark.parametrize("edge", EDGES)
def test_right_where_a_formula_needs_its_epsilon_or_guard(edge, folder):
    operation, case, handed_on = EDGES[edge]
    made = dispatch(operation, case, handed_on)
    outputs, _ = run(made, folder, mode="fast")
    for got, want, dtype in zip(map(exact, outputs), defined(operation, case), made.output_dtypes, strict=True):
        assert np.isfinite(got).all()
        assert error(got, in_range(want, dtype)) <= ROUNDING[dtype]


def test_every_line_of_every_shader_is_reached_by_these_cases():
    places = set()
    reached = set()
    for operation in OPERATIONS:
        for case, handed_on in CASES:
            _, report = run(dispatch(operation, case, handed_on), mode="cover")
            places |= report.lines
            reached |= report.lines_reached
    assert {str(place) for place in places - reached} == set()
    # A function that no case calls has no code at all, so its lines are not among those.
    lines = {(place.file, place.line) for place in reached}
    for name in ("dense.h", "best.h"):
        for number, text in enumerate((dispatches.FOLDER / name).read_text().split("\n"), 1):
            assert not re.search(r"return .*[({]", text) or (name, number) in lines, f"{name}:{number}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_same_bits_in_every_tiling(operation, folder):
    for case, _ in (CASES[1], CASES[3]):
        made = dispatch(operation, case)
        if operation == "norm_head_argmax" and dict(made.template)["SIMDGROUPS"] != 2:
            continue  # other tiles would give a threadgroup another share of the vocabulary
        outputs, _ = run(made, folder, mode="fast")
        for tiling in TILINGS[operation]:
            again, _ = run(retiled(made, **tiling), folder, mode="fast")
            assert same(outputs, again), tiling


@pytest.mark.parametrize("operation", OPERATIONS[:-1])
def test_a_row_does_not_depend_on_the_rows_beside_it(operation, folder):
    for case, handed_on in CASES[1:4]:
        row = case.rows - 1
        made = dispatch(operation, case, handed_on)
        together, _ = run(made, folder, mode="fast")
        alone = case.having(**{name: getattr(case.arrays, name)[row:] for name in ("x", "cos", "sin", "attended")})
        made_alone = dispatch(operation, alone, handed_on)
        if operation == "norm_head_argmax":  # alone, a threadgroup would take a larger share
            made_alone = made_alone._replace(output_shapes=tuple((1, *shape[1:]) for shape in made.output_shapes))
            made_alone = retiled(made_alone, SIMDGROUPS=dict(made.template)["SIMDGROUPS"])
        single, _ = run(made_alone, folder, mode="fast")
        assert same([output[row:] for output in together], single)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_of_logits_that_are_not_finite_is_told_and_leaves_other_rows_as_they_are(value, folder):
    case = Case(2, 64, 4, 1, 16, 512)
    logits = np.round(defined_logits(case), 9)
    x = np.array(case.arrays.x)
    x[0, 5] = value
    tokens, largest = best_of(case.having(x=mx.array(x)), folder)
    assert tokens[0] < case.vocabulary
    assert largest[0] == np.inf
    assert tokens[1] == logits[1].argmax()
    assert np.isclose(largest[1], logits[1].max())


NOT_FINITE = [(0, np.nan), (300, np.nan), (7, np.inf), (511, -np.inf)]


@pytest.mark.parametrize(("token", "value"), NOT_FINITE)
def test_a_token_whose_logits_are_not_finite_is_told_in_every_row(token, value, folder):
    case = Case(2, 64, 4, 1, 16, 512)
    head = np.array(case.arrays.head.weight.astype(F32))
    head[token, 5] = value
    tokens, largest = best_of(case.having(head=Dense(mx.array(head))), folder)
    assert max(tokens) < case.vocabulary
    assert largest == [np.inf, np.inf]


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
    one_threadgroup = Dense(a.head.weight[:64])
    assert dispatches.norm_head_argmax(a.x, a.norm, EPS, one_threadgroup) is None
    assert dispatches.output_residual(a.attended, a.o._replace(bias=None), a.x) is None
    heads_of_12 = a.qkv._replace(weight=a.qkv.weight[:72], bias=a.qkv.bias[:72])
    made = dispatches.norm_qkv_rope(a.x, a.norm, EPS, heads_of_12, a.cos[:, :6], a.sin[:, :6], heads=4, kv_heads=1)
    assert made is None
    assert dispatch("norm_qkv_rope", case, F32).output_shapes == ((1, 4, 16), (1, 2, 1, 16))


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Run the tests of some operations that a mutant in ``folder`` has to fail, quick ones first."""
    for edge, (operation, _, _) in EDGES.items():
        if operation in operations:
            test_right_where_a_formula_needs_its_epsilon_or_guard(edge, folder)
    for operation in operations:
        for case, handed_on in CASES:
            test_right_clean_and_the_same_in_every_order(operation, case, handed_on, folder)
    for operation in operations:
        test_the_same_bits_in_every_tiling(operation, folder)
        if operation in OPERATIONS[:-1]:
            test_a_row_does_not_depend_on_the_rows_beside_it(operation, folder)
    if {"norm_head_argmax", "norm_head_argmax_combine"} & set(operations):
        for value in (np.nan, np.inf):
            test_a_row_of_logits_that_are_not_finite_is_told_and_leaves_other_rows_as_they_are(value, folder)
        for token, value in NOT_FINITE:
            test_a_token_whose_logits_are_not_finite_is_told_in_every_row(token, value, folder)
