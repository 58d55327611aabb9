"""The families of shaders: their tests for the mutation suite, and their rows of the kernel report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.metal_kernels import (
    test_decode_attention_shaders,
    test_dense_shaders,
    test_expert_shaders,
    test_grouped_shaders,
)
from tests.metal_kernels.shaders import (
    decode_attention,
    decode_attention_mutants,
    decode_attention_rows,
    dense,
    dense_mutants,
    dense_rows,
    expert_mutants,
    expert_rows,
    experts,
    grouped,
)
from tests.metal_kernels.shaders.row import Row


@dataclass(frozen=True)
class Suite:
    """A family of shaders.

    ``operations`` are the names of its shaders. ``check`` runs the tests of some of them with the shaders in a folder,
    and raises if one fails. ``equivalent`` lists mutants that compute the same, with the reason. ``rows`` are for the
    report.
    """

    operations: tuple[str, ...]
    check: Callable[[Sequence[str], Path], None]
    equivalent: Mapping[str, str]
    rows: Callable[[], Iterable[Row]]


SUITES = (
    Suite(experts.OPERATIONS, test_expert_shaders.check_all, expert_mutants.EQUIVALENT, expert_rows.rows),
    Suite(dense.OPERATIONS, test_dense_shaders.check_all, dense_mutants.EQUIVALENT, dense_rows.rows),
    Suite(
        decode_attention.OPERATIONS,
        test_decode_attention_shaders.check_all,
        decode_attention_mutants.EQUIVALENT,
        decode_attention_rows.rows,
    ),
    Suite(grouped.OPERATIONS, test_grouped_shaders.check_all, grouped.EQUIVALENT, lambda: ()),
)
