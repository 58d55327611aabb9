"""``make memory-report``: models of the published shapes in less memory than their weights take.

    python -m tests.reports.memory [--keep FOLDER] [PART ...]

Random weights in 20b's true layout, and in 120b's with two of its layers, run in a memory control group that kills what
takes more than its limit. The plan's sums stand beside the group's account, logits beside those of all experts in
memory, and what was read beside what was missed. The tables of ``paging-report`` and ``speed-report`` follow.

PARTs are "20b", "120b", "paging", which needs the model of "120b", and "predictions"; by default all of them. Needs
Linux, root, 40 GB of disk, or 17 with ``--keep``, and 16 GB of memory. Exits with 1 if a goal is missed.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from convert import convert
from gptoss_mlx.bench.replay import hits_table, rates_table, results_of, sizes_of
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.expert_slots import expert_nbytes, holds_experts
from gptoss_mlx.prediction.replay import POLICIES, invented
from tests.reports import paging, speeds
from tests.support.memory_group import Ran, run_limited
from tests.support.random_checkpoint import SHAPES, write_random_checkpoint

GB = 10**9
CLOSE = 0.05
"""How far a peak may lie from the plan's, as a part of it."""
PROMPT, DECODED = 64, 16
RESIDENT = "22GB"
"""A budget that holds all of either model."""
INVENTED = {"skew": 0.6, "stay": 0.65}
"""With these, LRU with 30% of 120b's experts hits as often as mlx-lm issue 1438 says (0.80 to 0.87; Belady's bound 0.90
to 0.94)."""


@dataclass(frozen=True)
class Shape:
    """A model, the part of the report that runs it, and the (limit, budget) it is run with, in bytes and as text. The
    budget is a little less, for what a group counts beside anonymous bytes."""

    part: str
    name: str
    sizes: dict[str, Any]
    limits: tuple[tuple[int, str], ...]


MODELS = (
    Shape("20b", "20b", SHAPES["20b"], ((6 * GB, "5.8GB"), (int(10.5 * GB), "10.3GB"))),
    Shape("120b", "120b, 2 layers", SHAPES["120b"] | {"num_hidden_layers": 2}, ((int(2.6 * GB), "2.5GB"),)),
)
PARTS = (*(shape.part for shape in MODELS), "paging", "predictions")


class Findings:
    """A table of what was measured, and whether a goal was missed."""

    def __init__(self) -> None:
        self.table = Table("what", "measured", "goal", "reached")
        self.missed = False

    def add(self, what: str, measured: str, goal: str, reached: bool) -> None:
        self.table.add_row(what, measured, goal, "yes" if reached else "NO")
        self.missed |= not reached


def made(folder: Path, shape: Shape) -> Path:
    """Return the model folder, which is written if it is not there."""
    model = folder / shape.name.replace(", ", "-").replace(" ", "-")
    if not model.exists():
        source = write_random_checkpoint(folder / f"{model.name}-source", shape.sizes, shards=3)
        try:
            convert(source, model, dense="q8")
        finally:
            shutil.rmtree(source)
    return model


def ran(model: Path, budget: str, limit: int | None, logits: Path) -> tuple[Ran, dict[str, Any]]:
    """Run in a group. Return what came of it, and what the program printed, which is nothing if it was killed."""
    words = ["tests.support.limited_run", str(model), budget, str(PROMPT), str(DECODED), str(logits)]
    result = run_limited(words, limit)
    return result, json.loads(result.output) if result.code == 0 else {}


def limited(name: str, model: Path, limits: tuple[tuple[int, str], ...], found: Findings) -> None:
    """Run with all experts in memory, then within each limit."""
    size = next(expert_nbytes(stretch) for stretch in ModelFolder.open(model).stretches() if holds_experts(stretch))
    with tempfile.TemporaryDirectory() as temporary:
        want = Path(temporary) / "want"
        result, printed = ran(model, RESIDENT, None, want)
        if not printed:
            found.add(f"{name}, all in memory", f"exit code {result.code}", "runs", False)
            return
        peak(f"{name}, all in memory", result, printed, found)
        for limit, budget in limits:
            here = f"{name} in {limit / GB:g} GB"
            got = Path(temporary) / "got"
            result, printed = ran(model, budget, limit, got)
            fine = bool(printed) and not result.killed
            found.add(here, f"exit code {result.code}", "loads, reads 64 tokens, writes 16, is not killed", fine)
            if fine:
                slots = f"{printed['slots']} of {printed['experts']} slots"
                found.add(here, slots, "experts are paged", printed["slots"] is not None)
                same = got.read_bytes() == want.read_bytes()
                found.add(here, "equal bits" if same else "DIFFERENT", "logits of all in memory", same)
                peak(here, result, printed, found)
                costs(here, printed, size, found)


def peak(here: str, result: Ran, printed: dict[str, Any], found: Findings) -> None:
    """Compare the most anonymous bytes with the plan, less the prefix cache, which so short a run leaves empty."""
    share = result.anonymous / printed["running"]
    measured = (
        f"{result.anonymous / GB:.3f} GB in {result.samples} samples, {share:.3f} of {printed['running'] / GB:.3f}"
    )
    found.add(f"{here}, anonymous peak", measured, f"within {CLOSE:.0%} of the plan's", abs(share - 1) <= CLOSE)
    within = result.anonymous <= printed["budget"]
    found.add(f"{here}, anonymous peak", f"of {printed['budget'] / GB:.2f} GB", "below the budget", within)


def costs(here: str, printed: dict[str, Any], size: int, found: Findings) -> None:
    """Compare what was read and waited for with what was missed and repeated."""
    for name, tally in (("a token", printed["decode"]), ("the prompt", printed["prefill"])):
        per = DECODED if name == "a token" else 1
        measured = (
            f"{tally['misses'] / per:.1f} misses of {tally['wanted'] / per:.1f}, {tally['nbytes'] / per / 1e6:,.0f} MB"
        )
        exact = tally["nbytes"] == tally["misses"] * size
        found.add(f"{here}, {name}", measured, f"bytes are misses x {size / 1e6:.1f} MB", exact)
    ahead = [step for step in printed["steps"] if step["ahead"]]
    waiting = [step for step in printed["steps"] if not step["ahead"]]
    for name, steps, goal in (
        ("that runs ahead", ahead, "a readback, and one more a repeat"),
        ("that waits", waiting, "a readback a layer, no repeat"),
    ):
        readbacks = [step["readbacks"] for step in steps]
        repeats = [step["repeats"] for step in steps]
        right = readbacks == [1 + each for each in repeats] if steps is ahead else set(readbacks) <= {printed["layers"]}
        waits = f"{len(steps)} tokens, {sum(readbacks)} readbacks, {sum(repeats)} repeats"
        found.add(f"{here}, a token {name}", waits, goal, right)
    waited, went_ahead = (statistics.median(step["seconds"] for step in steps) for steps in (waiting, ahead))
    found.add(f"{here}, a token that waits", f"{waited / went_ahead:.2f} of the time of one that runs ahead", "", True)
    seconds = f"first {printed['first']:.2f} s, then {printed['token']:.2f}; loaded in {printed['loading']:.0f} s"
    found.add(f"{here}, times on this machine", seconds, "", True)


def predicted(console: Console) -> None:
    """Print what the replayer predicts for all layers of 120b, with choices that are invented."""
    config = PUBLISHED["120b"]
    taken = invented(config.num_hidden_layers, config.num_local_experts, config.num_experts_per_tok, 200, **INVENTED)
    sizes = sizes_of(config, [int(gigabytes * GB) for gigabytes in (12, 22, 27, 40)])
    results = results_of(taken, config.num_local_experts, sizes, POLICIES)
    console.print(f"120b, 36 layers, choices invented with {INVENTED}:")
    console.print(hits_table(results))
    own = {name: {policy: row[policy] for policy in ("LRU ahead", "LRU", "Belady")} for name, row in results.items()}
    for chip in ("M4 Pro", "M4 Max"):
        console.print(rates_table(config, chip, [2e9, 6e9, 13e9], own))
    console.print("Speeds are predictions, from published ones.")


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """Yield a temporary folder, or ``keep``, whose models the next run uses again."""
    if keep is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep


def main() -> int:
    parser = argparse.ArgumentParser(prog="memory", description="Run the published shapes in little memory.")
    parser.add_argument("--keep", type=Path, help="folder to keep the models in, 17 GB, for the next run")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is {', '.join(sorted(unknown))}; they are {', '.join(PARTS)}")
    parts = given.parts or PARTS
    console = Console(width=150, highlight=False)
    found = Findings()
    with work_folder(given.keep) as folder:
        for shape in MODELS:
            if shape.part not in parts:
                continue
            model = made(folder, shape)
            try:
                limited(shape.name, model, shape.limits, found)
            except OSError as error:
                print(
                    f"memory-report: no memory control group can be made, which takes root ({error})", file=sys.stderr
                )
                return 1
        if found.table.row_count:
            console.print(found.table)
        missed = "paging" in parts and paging.report(made(folder, MODELS[-1])) != 0
    if "predictions" in parts:
        predicted(console)
        speeds.main()
    if found.missed or missed:
        print("memory-report: a goal was not reached")
    return int(found.missed or missed)


if __name__ == "__main__":
    sys.exit(main())
