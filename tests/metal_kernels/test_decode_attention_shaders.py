"""Decode attention over body, tail and new rows, emulated and in plain MLX: right to rounding, clean, each row
alone."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import dispatches, launch, reference
from metal_kernels.emulator import FindingKind
from metal_kernels.operands import CacheView
from tests.metal_kernels.shaders.common import (
    BF16,
    F16,
    F32,
    ROUNDING,
    error,
    exact,
    in_range,
    retiled,
    run,
    same,
    shader_files,
)
from tests.metal_kernels.shaders.decode_attention import (
    CASES,
    OPERATIONS,
    ROOM,
    Case,
    as_cache,
    attended,
    defined,
    defined_combine,
    dispatch,
    edges,
    layer,
    view,
)

CASE_NAMES = [str(case) for case, _ in CASES]


@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=CASE_NAMES)
def test_right_clean_and_the_same_in_every_order(case, handed_on, folder):
    filled = case.tail + case.new
    unwritten = 2 * case.kv_heads * (ROOM - filled) * case.dim * case.kv.size
    whole = mx.concatenate([case.arrays.tail[..., : case.tail, :], as_cache(case.arrays.kv)], axis=3)
    first = None
    for order in ("forward", "reversed", "shuffled"):
        out, tail, reports = attended(case, handed_on, folder, mode="check", order=order)
        findings = [str(finding) for report in reports for finding in report.findings]
        if unwritten:
            assert len(findings) == 1, findings
            assert re.search(rf": {FindingKind.UNWRITTEN}: {unwritten} of .*'fresh_tail'", findings[0]), findings
        else:
            assert not findings
        assert mx.array_equal(tail[..., :filled, :], whole)
        if first is None:
            first = out
            assert np.isfinite(exact(out)).all()
            assert error(exact(out), defined(case)) <= ROUNDING[handed_on]
        assert mx.array_equal(out, first), order


EDGES = edges()


@pytest.mark.parametrize("edge", EDGES)
def test_right_where_a_softmax_needs_its_maximum_and_rows_their_guard(edge, folder):
    case, handed_on, allowed = EDGES[edge]
    out, _, _ = attended(case, handed_on, folder, mode="fast")
    assert np.isfinite(exact(out)).all()
    assert error(exact(out), in_range(defined(case), handed_on)) <= allowed


COMBINED = [(2, 32, F32), (32, 64, BF16), (33, 128, F16)]


@pytest.mark.parametrize(("splits", "dim", "dtype"), COMBINED)
def test_splits_below_at_and_above_the_lanes_are_joined(splits, dim, dtype, folder):
    """In row 0 the last split has by far the largest score, in row 2 the first. In row 1 the last has no keys."""
    rng = np.random.default_rng(splits)
    parts = rng.standard_normal((3, 8, splits, dim + 4)).astype(np.float32)
    parts[..., -4] *= 5
    parts[..., -3] = rng.uniform(1, 100, parts.shape[:3])
    parts[0, :, -1, -4] = 200
    parts[2, :, 0, -4] = 200
    parts[1, :, -1] = 0
    parts[1, :, -1, -4] = -np.finfo(np.float32).max
    given = mx.array(parts)
    sinks = mx.array(rng.standard_normal(8)).astype(dtype)
    made = dispatches.decode_attention_combine(given, sinks, dtype)
    outputs, report = run(made, folder, mode="check")
    assert not report.findings, str(report)
    assert np.isfinite(exact(outputs[0])).all()
    assert error(exact(outputs[0]), defined_combine(given, sinks)) <= ROUNDING[dtype]
    for order in ("reversed", "shuffled"):
        again, report = run(made, folder, mode="check", order=order)
        assert not report.findings, str(report)
        assert same(outputs, again), order


COMBINED_EDGES = [(1e36, 0, 89, F32), (1, -200, -199, F32), (1, 200, 201, F32), (1e5, 0, 0, F16)]


@pytest.mark.parametrize(("values", "top", "sink", "dtype"), COMBINED_EDGES)
def test_splits_are_joined_where_a_softmax_needs_its_maximum_and_rows_their_guard(values, top, sink, dtype, folder):
    parts = np.random.default_rng(1).standard_normal((1, 8, 3, 68)).astype(np.float32)
    parts[..., -4] += top
    parts[..., -3] = 2
    parts[..., :-4] *= values
    given = mx.array(parts)
    sinks = mx.full((8,), sink, F32)
    (out,), _ = run(dispatches.decode_attention_combine(given, sinks, dtype), folder, mode="fast")
    assert np.isfinite(exact(out)).all()
    assert error(exact(out), in_range(defined_combine(given, sinks), dtype)) <= ROUNDING[dtype]


PAST = [(dispatches.SPLIT_KEYS, None), (dispatches.SPLIT_KEYS, 128), (dispatches.INSIDE * dispatches.SPLIT_KEYS, None)]


@pytest.mark.parametrize(("keys", "window"), PAST)
def test_a_row_depends_on_no_row_beside_it_nor_on_where_its_keys_lie(keys, window, folder):
    """Two of the rows see more than so many keys, for which there is another launch or a split more."""
    case = Case(keys - 13, 7, 8, window=window, kv=F32)
    together, _, _ = attended(case, folder=folder, mode="fast")
    for row, tail in ((5, 0), (5, 63), (6, 30)):
        position = case.keys + row
        alone, _, _ = attended(case.divided(position - tail, tail, 1), folder=folder, mode="fast")
        assert mx.array_equal(alone[0], together[row]), (row, tail)


def test_the_same_bits_however_many_keys_a_lane_holds_and_heads_a_threadgroup_serves(folder):
    made = dispatch(Case(70, 3, 2))
    (out, _), _ = run(made, folder, mode="fast")
    for batch in (1, 2, 8):
        (again, _), _ = run(retiled(made, BATCH=batch), folder, mode="fast")
        assert mx.array_equal(out, again), batch
    threads, heads, rows = made.grid
    whole = retiled(made, GROUP=8, SHARE=1)._replace(grid=(threads, heads // 4, rows))
    (again, _), _ = run(whole, folder, mode="fast")
    assert mx.array_equal(out, again)


def test_every_line_is_reached_by_these_cases():
    places = set()
    reached = set()
    for case, handed_on in (CASES[0], CASES[2], *CASES[-2:]):  # half, float32 and bfloat16; the last one is split
        for report in attended(case, handed_on, mode="cover")[2]:
            places |= report.lines
            reached |= report.lines_reached
    assert {str(place) for place in places - reached} == set()
    # A function that no case calls has no code at all, so its lines are not among those.
    lines = {(place.file, place.line) for place in reached}
    for file in {file for operation in OPERATIONS for file in shader_files(operation)} - {"activations.h"}:
        for number, text in enumerate((dispatches.FOLDER / file).read_text().split("\n"), 1):
            assert "return " not in text or (file, number) in lines, f"{file}:{number}"


@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=CASE_NAMES)
def test_plain_mlx_computes_the_same(case, handed_on):
    a = case.arrays
    out, fresh = reference.decode_attention(a.q, a.kv, view(case, a), layer(case, a), handed_on)
    assert out.dtype == handed_on
    assert error(exact(out), defined(case)) <= ROUNDING[handed_on]
    assert mx.array_equal(fresh[..., : case.tail, :], a.tail[..., : case.tail, :])
    assert mx.array_equal(fresh[..., case.tail : case.tail + case.new, :], as_cache(a.kv))


@pytest.mark.parametrize("window", [None, 128])
def test_it_is_what_mlx_s_own_attention_computes_on_one_array(window, monkeypatch):
    case = Case(301, 20, 4, heads=16, kv_heads=2, window=window, kv=F32, sinks=F32)
    a = case.arrays
    tail = a.tail[..., : case.tail, :]
    joined = mx.concatenate([a.body[..., : case.body, :], tail, as_cache(a.kv)], axis=3)
    age = mx.arange(case.keys, case.keys + case.new)[:, None] - mx.arange(case.keys + case.new)
    mask = (age >= 0) & (age < (window or case.keys + case.new))
    queries = a.q.transpose(1, 0, 2)[None]
    mlx = mx.fast.scaled_dot_product_attention(
        queries, joined[0], joined[1], scale=case.scale, mask=mask, sinks=a.sinks
    )
    want = exact(mlx[0].transpose(1, 0, 2).reshape(case.new, -1))
    for setting in ("off", "emulated"):
        monkeypatch.setenv(launch.VARIABLE, setting)
        got, _ = launch.decode_attention(a.q, a.kv, [view(case, a)], layer(case, a), F32)
        assert error(exact(got), want) <= 2e-6, setting


def test_a_context_that_grows_compiles_nothing_new():
    a = (case := Case(0, 0, 1)).arrays
    for lengths, splits in (((1, 100, 255), [1, 1, 1]), ((256, 700, 1023), [1, 1, 1]), ((1024, 100_000), [5, 391])):
        caches = [CacheView(a.body, a.tail, a.counts, keys) for keys in lengths]
        made = [dispatches.decode_attention(a.q, a.kv, cache, layer(case, a), F16) for cache in caches]
        assert len({one.template for one in made}) == 1
        assert [one.grid[0] // one.threadgroup[0] for one in made] == splits


def test_arrays_no_shader_is_made_for_are_declined():
    case = Case(4, 0, 1)
    a = case.arrays
    assert dispatch(case) is not None
    assert dispatch(replace(case, new=9)) is None
    assert dispatch(replace(case, dim=48)) is None
    assert dispatch(replace(case, heads=4)) is None  # four sinks would come in constant memory
    assert dispatch(replace(case, heads=16)) is None  # sixteen query heads to a key/value head
    assert dispatch(replace(case, window=ROOM - 1)) is None  # the tail's first row would be out of sight, so not copied
    assert dispatch(case, q=a.q.astype(BF16)) is None
    assert dispatch(case, tail=a.tail.astype(F16)) is None
    assert dispatch(case, body=mx.concatenate([a.body] * 2, axis=1)) is None


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Run the tests of some operations that a mutant in ``folder`` has to fail, quick ones first."""
    if "decode_attention_combine" in operations:
        for splits, dim, dtype in COMBINED:
            test_splits_below_at_and_above_the_lanes_are_joined(splits, dim, dtype, folder)
        for edge in COMBINED_EDGES:
            test_splits_are_joined_where_a_softmax_needs_its_maximum_and_rows_their_guard(*edge, folder)
    if "decode_attention" in operations:
        for edge in EDGES:
            test_right_where_a_softmax_needs_its_maximum_and_rows_their_guard(edge, folder)
        for case, handed_on in CASES:
            test_right_clean_and_the_same_in_every_order(case, handed_on, folder)
        test_the_same_bits_however_many_keys_a_lane_holds_and_heads_a_threadgroup_serves(folder)
    for keys, window in PAST:
        test_a_row_depends_on_no_row_beside_it_nor_on_where_its_keys_lie(keys, window, folder)
