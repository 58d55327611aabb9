"""The families of shaders: what the mutation suite puts mutants to, and what the kernel report lists."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.kernel_checks import (
    attention,
    attention_mutants,
    attention_rows,
    dense,
    dense_mutants,
    dense_rows,
    expert_mutants,
    expert_rows,
    experts,
)
from tests.support.kernel_checks.row import Row


@dataclass(frozen=True)
class Suite:
    """``operations``: names of shaders. ``check``: every check of some of them with the shaders in a folder, raising if
    one does not hold. ``equivalent``: mutants that compute the same, with the reason. ``rows``: for the report."""

    operations: tuple[str, ...]
    check: Callable[[Sequence[str], Path], None]
    equivalent: Mapping[str, str]
    rows: Callable[[], Iterable[Row]]


SUITES = (
    Suite(experts.OPERATIONS, experts.check_all, expert_mutants.EQUIVALENT, expert_rows.rows),
    Suite(dense.OPERATIONS, dense.check_all, dense_mutants.EQUIVALENT, dense_rows.rows),
    Suite(attention.OPERATIONS, attention.check_all, attention_mutants.EQUIVALENT, attention_rows.rows),
)
