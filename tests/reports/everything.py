"""``make bench-report``: run every target that a number in README and docs comes from, and say which failed.

Each target's output is kept under ``out/reports``. A target that fails does not stop the others. All of them take a
day, 40 GB of disk, root and a compiler; ONLY="compare engine-report" chooses some.

Usage: python -m tests.reports.everything [TARGET ...]
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
OUT = ROOT / "out" / "reports"

TARGETS = (
    # minutes, and what most rows rest on
    "test",
    "speed-report",
    "predictions",
    "oracle",
    "kernel-report",
    "test-20b",
    "cpu-report",
    # beside other programs, on two layers of 20b's shape
    "compare",
    "engine-report",
    "bench-peers",
    "compare-full",
    "mlx-lm-test",
    "lm-eval",
    # what users do
    "tools-report",
    "chat-report",
    "screens",
    "page-report",
    "batch-kill-test",
    "prefix-report",
    "server-report",
    "clients",
    "structured-report",
    "sandbox-report",
    "convert-report",
    "distributed-report",
    "size-report",
    # memory and paging
    "paging-report",
    "paging-stress",
    "memory-report",
    # random input, and changes of the shaders, for hours
    "cpu-fuzz",
    "fuzz-report",
    "sequence-report",
    "gpu-dry-run",
    "mutate",
)
"""What ``make`` runs, in this order."""


@dataclass(frozen=True)
class Ran:
    """How a target ended, and after how long."""

    target: str
    code: int
    seconds: float


def run(target: str, out: Path, make: Sequence[str] = ("make",)) -> Ran:
    """Run a target. Write what it prints to a file of its name, and let it be seen."""
    begin = time.monotonic()
    with (
        (out / f"{target}.log").open("wb") as log,
        subprocess.Popen([*make, target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            log.write(line)
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
    return Ran(target, running.returncode, time.monotonic() - begin)


def run_all(targets: Sequence[str], out: Path, make: Sequence[str] = ("make",)) -> int:
    """Run targets one after the other, print how each ended, also after Ctrl-C, and return 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    ran = []
    try:
        for target in targets:
            print(f"bench-report: make {target}", flush=True)
            ran.append(run(target, out, make))
    finally:
        table = Table("target", "exit code", "minutes", "output")
        for each in ran:
            log = out / f"{each.target}.log"
            where = log.relative_to(ROOT) if log.is_relative_to(ROOT) else log
            table.add_row(each.target, str(each.code), f"{each.seconds / 60:.1f}", str(where))
        Console(width=100).print(table)
    return int(any(each.code for each in ran))


def main() -> int:
    chosen = sys.argv[1:] or TARGETS
    if unknown := [target for target in chosen if target not in TARGETS]:
        print(f"bench-report: no target is {', '.join(unknown)}; they are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return run_all(chosen, OUT)


if __name__ == "__main__":
    sys.exit(main())
