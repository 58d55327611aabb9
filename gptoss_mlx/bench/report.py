"""What a benchmark found, with all that a reader must know of how: as JSON's values, and as tables.

The JSON is what ``--json`` writes and what ``benchmarks/`` collects; ``benchmarks/README.md`` describes it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gptoss_mlx.bench.harness import CALM, Spread
from gptoss_mlx.bench.measuring import Effort, LeftOut, Measured

FORMAT = "gptoss-mac-bench"
VERSION = 1

MAY_COMPUTE_IDLE = 0.05
"""Cores that a program may keep busy while another is measured."""


@dataclass
class Report:
    """What was measured until now, and the conditions. ``programs`` says how each stores and computes, and the first is
    ours. ``machine``, ``versions`` and ``model`` are JSON's values."""

    made: str
    machine: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, Any]
    programs: dict[str, str]
    effort: Effort
    complete: bool = False
    thermal_pressure_after: str | None = None
    found: list[Measured] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def own(self) -> str:
        """Return the name of our own program."""
        return next(iter(self.programs))

    def add(self, result: Measured | LeftOut) -> None:
        """Take a result up."""
        if isinstance(result, Measured):
            self.found.append(result)
        else:
            self.left_out.append(result)

    def as_json(self) -> dict[str, Any]:
        """Return the record. Seconds are those of each turn, in order of how calm the machine was."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "made": self.made,
            "complete": self.complete,
            "machine": self.machine | {"thermal_pressure_after": self.thermal_pressure_after},
            "versions": self.versions,
            "model": self.model,
            "programs": self.programs,
            "effort": asdict(self.effort),
            "results": [
                self._result(measured, name) for measured in self.found for name in self.programs if name in measured
            ],
            "left_out": [asdict(each) for each in self.left_out],
        }

    def _result(self, measured: Measured, name: str) -> dict[str, Any]:
        timing = measured.timing
        rate = asdict(timing.rate(name, measured.tokens)) if measured.tokens else None
        beside = self.own in measured and name != self.own
        return {
            "label": measured.label,
            "program": name,
            "tokens": measured.tokens,
            "rows": measured.rows,
            "depth": measured.depth,
            "seconds": [turn.seconds[name] for turn in timing.turns],
            "tokens_per_second": rate,
            "times_ours": asdict(timing.ratio(name, to=self.own)) if beside else None,
            "peak_memory": measured.memory[name],
            "waiting": timing.waiting,
        }


def rates_table(report: Report) -> Table:
    """Return tokens a second of each program at each piece of work. All sequences of a step count together."""
    return _table(report, [each for each in report.found if each.tokens], "test", "tokens/s")


def starts_table(report: Report) -> Table:
    """Return the seconds that programs take to load, and then to their first token."""
    return _table(report, [each for each in report.found if not each.tokens], "start", "seconds")


def _table(report: Report, found: Sequence[Measured], what: str, unit: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    several = len(report.programs) > 1
    for head in (what, "program", f"{unit} (quartiles)", "n", "memory", *(["time, ours = 1"] if several else [])):
        table.add_column(head, overflow="fold", no_wrap=head in (what, "n", "memory"))
    for measured in found:
        for name in report.programs:
            if name not in measured:
                continue
            timing = measured.timing
            spread = timing.rate(name, measured.tokens) if measured.tokens else timing.seconds(name)
            cells = [measured.label, name, _shown(spread), str(spread.count), _size(measured.memory[name])]
            if several and name != report.own and report.own in measured:
                cells.append(_shown(timing.ratio(name, to=report.own)))
            table.add_row(*cells)
    return table


def notes(report: Report) -> list[str]:
    """Return what a reader must know beside the tables, in lines."""
    lines = [f"{name}: {how}" for name, how in report.programs.items()]
    lines += _grouped(report.left_out)
    waits = [each.timing.waiting for each in report.found if each.timing.waiting is not None]
    if waits and max(waits) > CALM:
        lines.append(
            f"This machine was busy: some thread waited for a core in up to {max(waits):.0%} of the time. Measure "
            "again when nothing else runs."
        )
    for name in report.programs:
        busy = max((each.timing.idle.get(name, 0.0) for each in report.found), default=0.0)
        if busy > MAY_COMPUTE_IDLE:
            lines.append(f"{name} kept {busy:.0%} of a core busy while others were measured.")
    after, before = report.thermal_pressure_after, report.machine.get("thermal_pressure")
    if after not in (None, "nominal"):
        lines.append(f"macOS slowed this chip because it was hot: thermal pressure {before} before and {after} after.")
    if report.machine.get("power_mode") == "low power" or report.machine.get("power_source") == "Battery Power":
        lines.append("This Mac ran on battery or in low power mode, which makes it slower.")
    return lines


def heading(report: Report) -> str:
    """Return in a line what was measured on what."""
    machine = report.machine
    cores = f", {machine['gpu_cores']} GPU cores" if machine.get("gpu_cores") else ""
    mode = f", power mode {machine['power_mode']}" if machine.get("power_mode") else ""
    chip = machine.get("chip") or "an unknown chip"
    return f"{report.model['name']} on {chip}{cores}{mode}, {machine['system']}; medians"


def _shown(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _grouped(left_out: Sequence[LeftOut]) -> list[str]:
    labels: dict[str, list[str]] = {}
    for each in left_out:
        labels.setdefault(each.reason, []).append(each.label)
    return [f"Left out: {', '.join(dict.fromkeys(names))} ({reason})" for reason, names in labels.items()]
