"""The shaders around a prompt's grouped products, emulated: right to rounding, clean, each row for itself."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches, launch
from metal_kernels.operands import Dense, Experts
from tests.metal_kernels.shaders.common import BF16, F32, ROUNDING, error, exact, run, same
from tests.metal_kernels.shaders.grouped import CASES, OPERATIONS, Case, defined, dispatch, edges


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_right_clean_and_the_same_in_every_order(operation, case, folder):
    made = dispatch(operation, case)
    outputs, report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    got = exact(outputs[0])
    assert np.isfinite(got).all()
    assert error(got, defined(operation, case)) <= ROUNDING[made.output_dtypes[0]]
    for order in ("reversed", "shuffled"):
        again, report = run(made, folder, mode="check", order=order)
        assert not report.findings, str(report)
        assert same(outputs, again), order


EDGES = edges()


@pytest.mark.parametrize("edge", EDGES)
def test_right_where_swiglu_needs_its_limit_or_guard(edge, folder):
    operation, case = EDGES[edge]
    (out,), _ = run(dispatch(operation, case), folder, mode="fast")
    assert np.isfinite(exact(out)).all()
    assert error(exact(out), defined(operation, case)) <= ROUNDING[F32]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_does_not_depend_on_the_rows_beside_it(operation):
    case = CASES[2]
    (together,), _ = run(dispatch(operation, case), mode="fast")
    (alone,), _ = run(dispatch(operation, case.alone(7)), mode="fast")
    first = 7 * (case.k if operation == "grouped_swiglu" else 1)
    assert mx.array_equal(together[first : first + len(alone)], alone)


def test_they_read_what_they_need_and_no_more_often_than_a_row_does():
    case = Case(9, 2880, 2880)
    for operation, once, fewer in (
        ("grouped_swiglu", ("product",), ("bias", "slot")),
        ("grouped_sum", ("grouped", "residual"), ("place", "weights")),
    ):
        _, counted = run(dispatch(operation, case), mode="count")
        for name in once:
            assert counted.buffers[name].bytes_issued == case.arrays[name].nbytes
        for name in fewer:
            assert counted.buffers[name].loads > 0


def test_a_prompt_s_experts_run_them_around_mlx_s_products(monkeypatch):
    rng = np.random.default_rng(0)
    slots, hidden, inter = 8, 64, 32

    def experts(rows: int, columns: int) -> Experts:
        weight = mx.array(rng.integers(0, 1 << 32, (slots, rows, columns // 8), np.uint32))
        scales = mx.array(rng.integers(118, 124, (slots, rows, columns // 32), np.uint8))
        return Experts(weight, scales, mx.array(rng.standard_normal((slots, rows)).astype(np.float32)))

    x = mx.array(rng.standard_normal((12, hidden)).astype(np.float32))
    router = Dense(mx.array(rng.standard_normal((slots, hidden)).astype(np.float32)))
    both = experts(2 * inter, hidden), experts(hidden, inter)
    ran = []
    plain = launch.Kernel.launch
    monkeypatch.setattr(launch.Kernel, "launch", lambda self, made: ran.append(made.shader) or plain(self, made))
    outs = {}
    for setting in ("off", "emulated"):
        monkeypatch.setenv(launch.VARIABLE, setting)
        normed, logits = launch.norm_router(x, mx.ones(hidden), 1e-5, router._replace(bias=mx.zeros(slots)), F32)
        table = mx.arange(slots, dtype=mx.int32)
        outs[setting] = exact(launch.expert_mlp_grouped(normed, logits, table, *both, x, k=4, limit=7.0))
    assert ran == ["grouped_swiglu", "grouped_sum"]
    assert error(outs["emulated"], outs["off"]) <= 1e-6


def test_arrays_no_shader_is_made_for_are_declined():
    a = CASES[0].arrays
    assert dispatches.grouped_swiglu(a["product"][:7], a["slot"][:7], a["bias"], 7.0) is None  # in constant memory
    assert dispatches.grouped_swiglu(a["product"], a["slot"].astype(mx.uint32), a["bias"], 7.0) is None
    assert dispatches.grouped_sum(a["grouped"], a["place"], a["weights"], a["residual"].astype(BF16)) is None
    odd = mx.zeros((36, 68), BF16)
    assert dispatches.grouped_sum(odd, a["place"], a["weights"], mx.zeros((9, 68))) is None


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Run the tests of some operations that a mutant in ``folder`` has to fail, quick ones first."""
    for edge, (operation, _) in EDGES.items():
        if operation in operations:
            test_right_where_swiglu_needs_its_limit_or_guard(edge, folder)
    for operation in operations:
        for case in CASES:
            test_right_clean_and_the_same_in_every_order(operation, case, folder)
