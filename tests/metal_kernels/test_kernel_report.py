"""The figures the shaders have to keep, and that the report shows when they are lost."""

import shutil

import pytest

from metal_kernels import dispatches
from tests.metal_kernels.kernel_report import table
from tests.metal_kernels.shaders import decode_attention_rows, dense, dense_rows
from tests.metal_kernels.shaders.common import run
from tests.metal_kernels.shaders.expert_rows import measure
from tests.metal_kernels.shaders.experts import Case, published_size
from tests.metal_kernels.shaders.row import Several

MOST_ISSUED = {"expert_gate_up": 52.3, "expert_down_residual": 34.6}
"""The most MB a shader may load at the published size. MLX's kernels load 88 and 44, with fewer rows per simdgroup."""


@pytest.fixture(scope="module")
def published():
    return published_size(32)


@pytest.mark.parametrize("operation", MOST_ISSUED)
def test_figures_at_the_published_size(operation, published):
    row = measure(operation, published, draws=3)
    assert row.unique == row.fewest
    assert row.loads_per_weight == 1
    assert row.total / 1e6 <= MOST_ISSUED[operation] < row.stock_issued / 1e6
    assert row.error.largest <= 2e-6
    # The largest of some thousand roundings is luck; their mean square is not.
    assert row.error.root_mean_square <= row.stock_error.root_mean_square


def test_attention_has_many_threadgroups_that_wait_seldom_and_reads_each_key_once_where_there_are_many():
    window, thousand, many, combined = decode_attention_rows.rows()
    assert combined.operation.startswith("decode_attention_combine")
    for row in (window, thousand):
        assert row.loads_per_weight == 4
        assert row.threadgroups == 32
        assert row.waits <= 11
        assert 1.9 * row.total < row.stock_issued  # there each of eight query heads reads its own copy
        assert row.error.root_mean_square <= 1.5 * row.stock_error.root_mean_square
    assert many.loads_per_weight == 1
    assert many.threadgroups == 256
    for row in (window, thousand, many, combined):
        assert row.unique == row.fewest
        assert row.total <= 1.2 * max(1, row.loads_per_weight if row.weights else 0) * sum(row.fewest.values())
        assert row.error.largest <= 2e-6


MOST_DENSE = {("norm_qkv_rope", False): 40.6, ("norm_qkv_rope", True): 26.8, ("output_residual", True): 15.6}
"""The same for dense products, from float32 rows of x. MLX's 38.0 and 37.2 are from bf16 rows, normed by another
kernel."""


@pytest.mark.parametrize(("operation", "q8"), MOST_DENSE)
def test_figures_of_dense_products_at_the_published_size(operation, q8):
    row = dense_rows.measure(operation, dense.of_20b(q8))
    assert row.unique == row.fewest
    assert row.loads_per_weight == 1
    assert row.total / 1e6 <= MOST_DENSE[operation, q8]
    assert row.error <= row.stock_error
    assert row.error.root_mean_square <= row.stock_error.root_mean_square


@pytest.mark.parametrize("q8", [False, True])
def test_up_to_four_rows_share_each_load_of_a_dense_weight(q8):
    for rows, times in ((4, 1), (5, 2)):
        case = dense.Case(rows, 64, 4, 1, 16, 512, q8=q8)
        _, counted = run(dense.dispatch("output_residual", case), mode="count")
        assert Several.of("output_residual", rows, counted).loads_per_weight == times


LOADS = {
    "norm_router": ("norm_router.metal", "w = load_eight(router + expert * COLUMNS + n);", "router"),
    "expert_gate_up": ("mxfp4.h", "scale[r] = mxfp4_scale((scales + at)[uint(b + r) * GROUPS]);", "scales"),
}


@pytest.mark.parametrize("operation", LOADS)
def test_a_load_done_twice_changes_the_report(operation, tmp_path):
    case = Case(1, 64, 64, 32)
    for path in [*dispatches.FOLDER.glob("*.metal"), *dispatches.FOLDER.glob("*.h")]:
        shutil.copy(path, tmp_path)
    file, load, buffer = LOADS[operation]
    text = (tmp_path / file).read_text()
    assert load in text
    (tmp_path / file).write_text(text.replace(load, f"{load} {load}"))
    once, doubled = (measure(operation, case, folder, stock=False) for folder in (dispatches.FOLDER, tmp_path))
    assert doubled.issued[buffer] == 2 * once.issued[buffer]
    assert doubled.error == once.error  # the result cannot tell; the counters can
    assert table([doubled]) != table([once])
