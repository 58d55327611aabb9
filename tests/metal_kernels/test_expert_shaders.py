"""The expert shaders, emulated: right to rounding, clean, and the same however the work is divided and ordered."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches
from metal_kernels.emulator.report import FindingKind
from metal_kernels.operands import Experts
from tests.metal_kernels.shaders.common import (
    FLOAT32_ERROR,
    ROUNDING,
    error,
    exact,
    in_range,
    retiled,
    run,
    same,
    shader_files,
)
from tests.metal_kernels.shaders.experts import (
    CASES,
    OPERATIONS,
    TILINGS,
    Arrays,
    Case,
    chosen,
    defined,
    defined_gate_up,
    dispatch,
    edges,
    handed,
    published_size,
    results,
    values,
)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=[str(case) for case, _ in CASES])
def test_right_clean_and_the_same_in_every_order(operation, case, handed_on, folder):
    made = dispatch(operation, case, handed_on)
    outputs, report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    for got, want, dtype in zip(results(operation, outputs), defined(operation, case), made.output_dtypes, strict=True):
        assert np.isfinite(got).all()
        assert error(got, want) <= ROUNDING[dtype]
    for order in ("reversed", "shuffled"):
        again, report = run(made, folder, mode="check", order=order)
        assert not report.findings, str(report)
        assert same(outputs, again), order


EDGES = edges()


@pytest.mark.parametrize("edge", EDGES)
def test_right_where_a_formula_needs_its_epsilon_limit_guard_or_maximum(edge, folder):
    operation, case, handed_on = EDGES[edge]
    made = dispatch(operation, case, handed_on)
    outputs, _ = run(made, folder, mode="fast")
    for got, want, dtype in zip(results(operation, outputs), defined(operation, case), made.output_dtypes, strict=True):
        assert np.isfinite(got).all()
        assert error(got, in_range(want, dtype)) <= ROUNDING[dtype]


def test_every_line_of_every_shader_is_reached_by_these_cases():
    places = set()
    reached = set()
    for operation in OPERATIONS:
        for case, handed_on in CASES:
            absent = case.having(slots=mx.full(case.experts, -1, mx.int32))
            for each in (case, absent):
                _, report = run(dispatch(operation, each, handed_on), mode="cover")
                places |= report.lines
                reached |= report.lines_reached
    assert {str(place) for place in places - reached} == set()
    # A function that no case calls has no code at all, so its lines are not among those.
    lines = {(place.file, place.line) for place in reached}
    for file in {file for operation in OPERATIONS for file in shader_files(operation)}:
        for number, text in enumerate((dispatches.FOLDER / file).read_text().split("\n"), 1):
            assert "return " not in text or (file, number) in lines, f"{file}:{number}"


@pytest.mark.parametrize("operation", TILINGS)
def test_the_same_bits_in_every_tiling(operation, folder):
    made = dispatch(operation, CASES[1][0])
    outputs, _ = run(made, folder, mode="fast")
    for tiling in TILINGS[operation]:
        again, _ = run(retiled(made, **tiling), folder, mode="fast")
        assert same(outputs, again), tiling


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_does_not_depend_on_the_rows_beside_it(operation):
    case, _ = CASES[2]
    together, _ = run(dispatch(operation, case), mode="fast")
    alone = case.having(**{name: getattr(case.arrays, name)[5:6] for name in ("x", "normed", "logits", "activated")})
    single, _ = run(dispatch(operation, alone), mode="fast")
    assert same([output[5:6] for output in together], single)


@pytest.mark.parametrize("operation", ["expert_gate_up", "expert_down_residual"])
@pytest.mark.parametrize("experts", [32, 33])
def test_no_logits_lead_outside_the_weights(operation, experts, folder):
    """NaN, infinite and equal logits; those that mean something still choose what they mean."""
    case = Case(6, 32, 32, experts)
    logits = np.random.default_rng(1).standard_normal((6, experts)).astype(np.float32)
    logits[0] = np.nan
    logits[1] = -np.inf
    logits[2] = np.inf
    logits[3, 5:] = np.nan
    logits[4, 1:] = -np.inf
    logits[5] = 0.25
    last_slots = mx.arange(len(case.arrays.gate_up.weight))[-experts:].astype(mx.int32)
    case = case.having(logits=mx.array(logits), slots=last_slots)
    out, report = run(dispatch(operation, case), folder, mode="check")
    assert not report.findings, str(report)
    # Row 4 chooses three experts of weight 0, which may be any.
    sane = [4, 5] if operation == "expert_down_residual" else [5]
    for got, want in zip(results(operation, out), defined(operation, case), strict=True):
        assert error(got[sane], want[sane]) < FLOAT32_ERROR


@pytest.mark.parametrize("operation", ["expert_gate_up", "expert_down_residual"])
def test_an_absent_expert_adds_nothing_and_is_not_read(operation, folder):
    """Of the choices of each row some are in slot 0, some in others, and some nowhere."""
    case = Case(6, 64, 64, 33)
    a = case.arrays
    slots = np.array(a.slots)
    first = [chosen(logits, case.k)[0] for logits in exact(a.logits)]
    slots[slots == 0] = slots[first[0][0]]
    slots[first[0][0]] = 0
    slots[[first[0][1], first[1][0], first[2][3], *first[5]]] = -1
    away = np.array([[slots[id] < 0 for id in ids] for ids in first])
    assert 0 < away.sum() < away.size
    assert away[5].all()
    made = dispatch(operation, case.having(slots=mx.array(slots)))
    (out,), report = run(made, folder, mode="check")
    (got,) = results(operation, [out])
    if operation == "expert_gate_up":
        (left,) = report.findings
        assert left.kind is FindingKind.UNWRITTEN
        assert f"{away.sum() * 64 * out.itemsize} of the {out.nbytes} bytes" in left.message
        want = defined_gate_up(case.having(slots=mx.array(np.maximum(slots, 0))).arrays, case.k, case.limit)
        assert error(got[~away], want[~away]) <= ROUNDING[made.output_dtypes[0]]
        return
    assert not report.findings, str(report)
    want = exact(a.x)
    for t, logits in enumerate(exact(a.logits)):
        for choice, (expert, share) in enumerate(zip(*chosen(logits, case.k), strict=True)):
            slot = int(slots[expert])
            if slot >= 0:
                row = values(a.down, slot) @ exact(a.activated[t, choice]) + exact(a.down.bias[slot])
                want[t] += share * row
    assert error(got, want) <= ROUNDING[made.output_dtypes[0]]


def test_every_code_under_every_extreme_of_scale_is_exact(folder):
    """Activations that pick one column of one choice, without bias and residual: the output is the weight itself."""
    codes = np.arange(32, dtype=np.uint32) % 16
    words = [sum(int(c) << (4 * i) for i, c in enumerate(codes[at : at + 8])) for at in range(0, 32, 8)]
    weight = mx.array(np.tile(np.array(words, np.uint32), (8, 32, 1)))
    scales = mx.array(np.resize(np.array([0, 1, 13, 112, 127, 239, 240], np.uint8), (8, 32, 1)))
    down = Experts(weight, scales, mx.zeros((8, 32)))
    want = mx.dequantize(weight[0], scales[0], group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    for start in range(0, 32, 8):
        picked = handed(mx.eye(8, 32, k=start)[:, None])
        slots = mx.arange(8, dtype=mx.int32)
        made = dispatches.expert_down_residual(picked, mx.zeros((8, 8)), slots, down, mx.zeros((8, 32)))
        (out,), _ = run(made, folder, mode="fast")
        assert np.array_equal(exact(out), exact(want).T[start : start + 8])


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
    quantized = a.router._replace(scales=a.router.weight, offsets=a.router.weight)
    assert dispatches.norm_router(a.x, a.norm, 1e-5, quantized, mx.float32) is None
    few = a.router._replace(weight=a.router.weight[:7], bias=a.router.bias[:7])  # 7 logits come in constant memory
    assert dispatches.norm_router(a.x, a.norm, 1e-5, few, mx.float32) is None
    assert dispatches.expert_gate_up(a.normed, a.logits, a.slots, a.gate_up, case.k, 7.0) is None  # in natural order
    assert dispatches.expert_gate_up(handed(a.normed), a.logits, a.slots, a.gate_up, 9, 7.0) is None


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Run the tests of some operations that a mutant in ``folder`` has to fail, quick ones first."""
    for edge, (operation, _, _) in EDGES.items():
        if operation in operations:
            test_right_where_a_formula_needs_its_epsilon_limit_guard_or_maximum(edge, folder)
    for operation in operations:
        for case, handed_on in CASES:
            test_right_clean_and_the_same_in_every_order(operation, case, handed_on, folder)
    for operation in operations:
        if operation in TILINGS:
            test_the_same_bits_in_every_tiling(operation, folder)
            test_an_absent_expert_adds_nothing_and_is_not_read(operation, folder)
            for experts in (32, 33):
                test_no_logits_lead_outside_the_weights(operation, experts, folder)
    if "expert_down_residual" in operations:
        test_every_code_under_every_extreme_of_scale_is_exact(folder)
