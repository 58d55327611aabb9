"""Attention over body, tail and new rows, emulated and in plain MLX: right to rounding, clean, and each row's own."""

from dataclasses import replace

import mlx.core as mx
import pytest

from metal_kernels import dispatches, launch, reference
from tests.support.kernel_checks.attention import (
    CASES,
    OPERATIONS,
    ROOM,
    Case,
    attended,
    check,
    check_combine,
    check_division,
    check_tilings,
    defined,
)
from tests.support.kernel_checks.common import BF16, F16, F32, ROUNDING, error, exact, shader_files

CASE_NAMES = [str(case) for case, _ in CASES]


@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=CASE_NAMES)
def test_right_clean_and_the_same_in_every_order(case, handed_on):
    reports = check(case, handed_on=handed_on)
    assert all(report.races == report.uninitialised == 0 for report in reports)


def test_what_joins_splits_is_right_and_clean_for_any_number_of_them():
    check_combine()


def test_a_row_depends_on_no_row_beside_it_nor_on_where_its_keys_lie():
    check_division()


def test_the_same_bits_in_every_tiling():
    check_tilings()


def test_every_line_is_reached_by_these_cases():
    places, reached = set(), set()
    for case, handed_on in (CASES[0], CASES[2], CASES[-1]):  # of half, float32 and bfloat16, the last of them split
        for report in attended(case, handed_on, mode="cover")[2]:
            places |= report.lines
            reached |= report.lines_reached
    assert {str(place) for place in places - reached} == set()
    # A function no case calls has no code at all, so its lines are not among those.
    lines = {(place.file, place.line) for place in reached}
    for file in {file for operation in OPERATIONS for file in shader_files(operation)} - {"activations.h"}:
        for number, text in enumerate((dispatches.FOLDER / file).read_text().split("\n"), 1):
            assert "return " not in text or (file, number) in lines, f"{file}:{number}"


@pytest.mark.parametrize(("case", "handed_on"), CASES, ids=CASE_NAMES)
def test_plain_mlx_computes_the_same(case, handed_on):
    a = case.arrays
    out, fresh = reference.attention_with_cache(
        a.q, a.kv, a.body, a.tail, a.rows, case.keys, a.sinks, case.scale, case.window, handed_on
    )
    assert out.dtype == handed_on
    assert error(exact(out), defined(case)) <= ROUNDING[handed_on]
    assert mx.array_equal(fresh[..., : case.tail, :], a.tail[..., : case.tail, :])
    assert mx.array_equal(fresh[..., case.tail : case.tail + case.new, :], a.kv.transpose(1, 2, 0, 3)[:, None])


@pytest.mark.parametrize("window", [None, 128])
def test_it_is_what_mlx_s_own_attention_computes_on_one_array(window, monkeypatch):
    case = Case(301, 20, 4, heads=16, kv_heads=2, window=window, kv=F32, sinks=F32)
    a = case.arrays
    tail = a.tail[..., : case.tail, :]
    joined = mx.concatenate([a.body[..., : case.body, :], tail, a.kv.transpose(1, 2, 0, 3)[:, None]], axis=3)
    age = mx.arange(case.keys, case.keys + case.new)[:, None] - mx.arange(case.keys + case.new)
    mask = (age >= 0) & (age < (window or case.keys + case.new))
    queries = a.q.transpose(1, 0, 2)[None]
    mlx = mx.fast.scaled_dot_product_attention(
        queries, joined[0], joined[1], scale=case.scale, mask=mask, sinks=a.sinks
    )
    want = exact(mlx[0].transpose(1, 0, 2).reshape(case.new, -1))
    for setting in ("off", "emulated"):
        monkeypatch.setenv(launch.VARIABLE, setting)
        got, _ = launch.attention_with_cache(
            a.q, a.kv, a.body, a.tail, a.rows, case.keys, a.sinks, case.scale, window, mx.float32
        )
        assert error(exact(got), want) <= 2e-6, setting


def test_a_context_that_grows_compiles_nothing_new():
    templates, grids = set(), []
    for body in (300, 700, 5000, 100_000):
        case = Case(0, 0, 1)
        a = case.arrays
        made = dispatches.attention_with_cache(
            a.q, a.kv, a.body, a.tail, a.rows, body, a.sinks, case.scale, None, mx.float16
        )
        templates.add(made.template)
        grids.append(made.grid[0] // made.threadgroup[0])
    assert len(templates) == 1
    assert grids == [2, 3, 20, 391]


def test_arrays_no_shader_is_made_for_are_declined():
    def declined(case: Case, **other) -> bool:
        a = {**vars(case.arrays), **other}
        made = dispatches.attention_with_cache(
            a["q"], a["kv"], a["body"], a["tail"], a["rows"], case.keys, a["sinks"], 1.0, case.window, mx.float16
        )
        return made is None

    case = Case(4, 0, 1)
    assert not declined(case)
    assert declined(replace(case, new=9))
    assert declined(replace(case, dim=48))
    assert declined(replace(case, heads=4))  # four sinks would come in constant memory
    assert declined(replace(case, heads=16))  # sixteen query heads to a key/value head
    assert declined(replace(case, window=ROOM - 1))  # the tail's first row would be out of sight, and so not handed on
    assert declined(case, q=case.arrays.q.astype(BF16))
    assert declined(case, tail=case.arrays.tail.astype(F16))
    assert declined(case, body=mx.concatenate([case.arrays.body] * 2, axis=1))
