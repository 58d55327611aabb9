"""``make bench-report``: run every target that a number in README and docs comes from, and say which failed.

Each target's output is kept under ``out/reports``. A target that fails does not stop the others. All of them take a
day, 40 GB of disk, root and a compiler, so a run goes on where an earlier one ended: it leaves out what succeeded on
the same source. ONLY="compare engine-report" runs some, whether they ran or not.

Usage: python -m tests.reports.everything [TARGET ...]
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from metal_kernels import build_cache

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
    "test-long",
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
    "test-wheel",
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

FOLDERS = ("gptoss_mlx", "metal_kernels", "convert", "tests", "benchmarks", "packaging")
FILES = ("Makefile", "pyproject.toml")
"""What a target's result rests on."""

NARROWING = ("KINDS", "MODEL", "PARTS", "SECONDS")
"""Variables of make with which some targets do less, or something else. What ran so does not stand for the whole."""


@dataclass(frozen=True)
class Ran:
    """How a target ended, when it began, in UTC, after how many seconds, and by which source."""

    target: str
    code: int
    began: str
    seconds: float
    source: str


def source() -> str:
    """Return a hash of the names and contents of the files that targets rest on."""
    parts = [*(build_cache.digest(ROOT / name) for name in FOLDERS), *((ROOT / name).read_text() for name in FILES)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def run(target: str, out: Path, by: str, make: Sequence[str] = ("make",)) -> Ran:
    """Run a target. Write what it prints to a file of its name, and let it be seen."""
    began, begin = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), time.monotonic()
    with (
        (out / f"{target}.log").open("wb") as log,
        subprocess.Popen([*make, target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            log.write(line)
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
    return Ran(target, running.returncode, began, time.monotonic() - begin, by)


def recorded(out: Path, by: str) -> dict[str, Ran]:
    """Return how each target ended that ran to its end on this source."""
    every = [Ran(**json.loads(file.read_text())) for file in out.glob("*.json")]
    return {ran.target: ran for ran in every if ran.source == by}


def run_all(
    targets: Sequence[str],
    out: Path,
    make: Sequence[str] = ("make",),
    again: bool = False,
    by: Callable[[], str] = source,
) -> int:
    """Run targets one after the other, print how each ended, also after Ctrl-C, and return 1 if one failed.

    What succeeded before on the source that ``by`` names is left out unless ``again``. How a target ended is kept for
    later runs, unless a variable of make narrowed it.
    """
    out.mkdir(parents=True, exist_ok=True)
    ran: dict[str, Ran] = {}
    try:
        for target in targets:
            now = by()
            before = recorded(out, now).get(target)
            if before and not before.code and not again:
                print(f"bench-report: make {target} succeeded at {before.began}, on the same source", flush=True)
                ran[target] = before
                continue
            print(f"bench-report: make {target}", flush=True)
            ran[target] = run(target, out, now, make)
            if any(os.environ.get(name) for name in NARROWING):
                continue
            part = out / f"{target}.json.part"
            part.write_text(json.dumps(asdict(ran[target])))
            part.replace(out / f"{target}.json")
    finally:
        table = Table("target", "exit code", "began", "minutes", "output")
        for each in ran.values():
            log = out / f"{each.target}.log"
            where = log.relative_to(ROOT) if log.is_relative_to(ROOT) else log
            table.add_row(each.target, str(each.code), each.began, f"{each.seconds / 60:.1f}", str(where))
        Console(width=110).print(table)
    return int(any(each.code for each in ran.values()))


def main() -> int:
    chosen = sys.argv[1:]
    if unknown := [target for target in chosen if target not in TARGETS]:
        print(f"bench-report: no target is {', '.join(unknown)}; they are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    return run_all(chosen or TARGETS, OUT, again=bool(chosen))


if __name__ == "__main__":
    sys.exit(main())
