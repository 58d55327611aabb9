"""``make paging-stress`` and ``make paging-report``: thousands of steps with few slots, and what paging costs.

    python -m tests.reports.paging stress --steps 10000
    python -m tests.reports.paging report [MODEL FOLDER]

``stress`` asks the bundled model with 4 and 5 slots a layer, one question at a time, four at a time, and on emulated
shaders. Every reply must have the tokens of the model in memory. ``report`` measures in turns within one process, so
only its ratios mean anything. It exits with 1 if a goal is missed.
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from convert import convert
from gptoss_mlx.bench.harness import actions_in_turns
from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.model.experts import PagedExperts
from gptoss_mlx.model.slots import Tally
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.expert_slots import expert_nbytes
from gptoss_mlx.runtime import Runtime
from metal_kernels import launch
from tests.support.models import always_ahead
from tests.support.questions import is_right, replies

WAYS = ((4, 1, True), (4, 1, False), (5, 1, None), (4, 4, None), (5, 4, None))
"""Slots, questions at a time, and whether steps run ahead, None for what is faster."""
NAMES = {True: "run ahead", False: "wait in every layer", None: "choose"}
EMULATED_STEPS = 200
TURNS = 20
READS = 7
OVERHEAD = 1.03
"""The most that paging may cost where every expert is in a slot."""
THROUGHPUT = 0.8
"""The least share of a plain loop's rate that filling slots reaches."""


def paged(runtime: Runtime) -> PagedExperts:
    found = runtime.model.weights.paged
    assert found is not None, "loaded with slots"
    return found


def fetch(experts: PagedExperts, wanted: list[tuple[int, list[int]]]) -> None:
    """Fill slots with experts of (layer, ids)."""
    tally = Tally()
    experts.table.fetch(wanted, tally, experts.filling(tally))


def tiny(folder: Path) -> Path:
    return convert(checkpoint(), folder / "tiny").destination


def stressed(model: Path, steps: int, slots: int, rows: int, ahead: bool | None) -> list[str]:
    """Ask until so many steps have been taken. Return the table's line. Raises AssertionError at the first token that
    differs."""
    whole = gptoss_mlx.load(model, dtype="float32")
    own = gptoss_mlx.load(model, dtype="float32", slots=slots)
    if ahead is not None:
        always_ahead(own, ahead)
    taken = asked = 0
    for first in itertools.count(0, 8):
        numbers = range(first, first + min(8, max(1, -(-(steps - taken) // 70))))
        got = replies(own, numbers, rows)
        want = replies(whole, numbers, rows)
        assert got == want, [number for number in numbers if got[number] != want[number]]
        assert all(is_right(own, number, reply) for number, reply in got.items())
        asked += len(numbers)
        taken += sum(map(len, got.values())) - len(numbers)
        if taken >= steps:
            break
    tally = paged(own).decode
    assert tally.evictions > 0
    assert rows > 1 or (tally.repeats > 0) == (ahead is not False)
    return [
        f"{slots} slots, {rows} at a time, {launch.where()}" + (f", steps {NAMES[ahead]}" if rows == 1 else ""),
        f"{taken:,} steps, {asked} answers, all right and the same",
        f"hit rate {tally.hit:.2f}, {tally.evictions:,} evictions, {tally.repeats / taken:.2f} repeats and "
        f"{tally.readbacks / taken:.2f} readbacks a step",
    ]


def stress(steps: int) -> int:
    table = Table("experts", "answers", "decoding")
    with tempfile.TemporaryDirectory() as temporary:
        model = tiny(Path(temporary))
        for slots, rows, ahead in WAYS:
            table.add_row(*stressed(model, steps, slots, rows, ahead))
        with mock.patch.dict(os.environ, {launch.VARIABLE: "emulated"}):
            table.add_row(*stressed(model, min(steps, EMULATED_STEPS), 5, 1, True))
    Console(width=120).print(table)
    return 0


def overhead(model: Path, tokens: int) -> tuple[list[list[str]], bool]:
    """Measure decoding with every expert in a slot, as it is and where the host looks for misses all the same."""
    whole, full, looking = (gptoss_mlx.load(model, slots=slots) for slots in (None, *[_experts(model)] * 2))
    for runtime in (full, looking):
        layers = range(runtime.config.num_hidden_layers)
        fetch(paged(runtime), [(layer, list(range(runtime.config.num_local_experts))) for layer in layers])
    assert paged(full).complete
    prompt = np.random.default_rng(0).integers(0, 500, 16).tolist()

    def said(runtime: Runtime) -> list[int]:
        if runtime is looking:
            paged(looking).table.complete = False
        return list(runtime.generate(prompt, max_tokens=tokens, temperature=0, stop=()))

    assert said(whole) == said(full) == said(looking)
    runtimes = {"in memory": whole, "slots": full, "looking": looking}
    timing = actions_in_turns({name: lambda r=r: said(r) for name, r in runtimes.items()}, turns=TURNS)
    cost, looked = (timing.ratio(name, to="in memory").median for name in ("slots", "looking"))
    lines = [
        [f"{model.name}: every expert in a slot", f"{cost:.3f} of the time in memory", f"at most {OVERHEAD}"],
        [f"{model.name}: and the host looks for misses", f"{looked:.3f} of the time in memory", ""],
    ]
    return lines, cost <= OVERHEAD


def _experts(model: Path) -> int:
    return ModelFolder.open(model).config.num_local_experts


def throughput(model: Path) -> tuple[list[list[str]], bool]:
    """Measure filling eight slots of a layer beside a plain loop of reads of the same bytes, with the system's page
    cache and without."""
    own = paged(gptoss_mlx.load(model, slots=8))
    layer = own.layers[0]
    size = expert_nbytes(layer.stretch)
    elsewhere = layer._replace(parts={name: np.zeros_like(part) for name, part in layer.parts.items()})
    groups = itertools.cycle([list(range(8)), list(range(8, 16))])

    def fill() -> None:
        fetch(own, [(0, next(groups))])

    def loop() -> None:
        for slot, id in enumerate(next(groups)):
            for part in elsewhere.reads(id, slot):
                assert os.preadv(descriptor, [part.into], part.offset) == len(part.into)

    def forget() -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    lines = []
    reached = True
    with layer.stretch.file.open("rb") as file:
        descriptor = file.fileno()
        for name, before in (("warm", lambda: None), ("cold", forget)):
            timing = actions_in_turns({"slots": fill, "plain loop": loop}, turns=READS, ready=before)
            share = timing.ratio("plain loop", to="slots").median
            rates = [timing.rate(name, 8 * size).median / 1e9 for name in ("slots", "plain loop")]
            lines.append(
                [
                    f"{model.name}: filling slots, {name}",
                    f"{rates[0]:.2f} GB/s, {share:.2f} of a plain loop's {rates[1]:.2f}",
                    f"at least {THROUGHPUT}",
                ]
            )
            reached &= share >= THROUGHPUT
        lines.append([f"{model.name}: reads in flight", f"rates {own.reader.depth.rates}", ""])
    return lines, reached


def report(given: Path | None) -> int:
    table = Table("what", "measured", "goal")
    reached = []
    with tempfile.TemporaryDirectory() as temporary:
        parts = [overhead(tiny(Path(temporary)), 200)]
        if given is not None:
            parts += [overhead(given, 12), throughput(given)]
        for lines, fine in parts:
            reached.append(fine)
            for line in lines:
                table.add_row(*line)
    Console(width=120).print(table)
    if not all(reached):
        print("paging-report: a goal was not reached")
    return 0 if all(reached) else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="paging", description="Stress paged experts, or measure them.")
    ways = parser.add_subparsers(dest="way", required=True)
    ways.add_parser("stress").add_argument("--steps", type=int, default=10_000)
    ways.add_parser("report").add_argument("model", type=Path, nargs="?")
    given = parser.parse_args()
    return stress(given.steps) if given.way == "stress" else report(given.model)


if __name__ == "__main__":
    sys.exit(main())
