"""Pictures of a benchmark: decoding against depth under the roofline, and memory against depth. Drawn by matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptoss_mlx.bench.measuring import Measured
from gptoss_mlx.bench.report import Report, heading
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.figures import GREY, in_grey, save
from gptoss_mlx.prediction.published_speeds import GB
from gptoss_mlx.prediction.speed import known_bandwidth, token_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b7dd8", "#d9822b")
WIDTH = {"metal": 2, "cpu": 4, "plain": 4}
"""Bytes of a key's or value's number, by backend."""


def draw(report: Report, config: ModelConfig, dense: str, folder: Path) -> list[Path]:
    """Draw what was measured of one sequence into ``decode.png`` and ``memory.png``, and return their paths. What was
    not measured is not drawn. Raises StorageError."""
    found = [each for each in report.found if each.tokens and each.rows == 1 and each.label.startswith("tg")]
    if not found:
        return []
    paths = folder / "decode.png", folder / "memory.png"
    save(_decode(report, found, config, dense), paths[0])
    save(_memory(report, found), paths[1])
    return list(paths)


def _decode(report: Report, found: list[Measured], config: ModelConfig, dense: str) -> "Figure":
    figure, axes = _axes(report, "tokens a second")
    bandwidth = known_bandwidth(report.machine.get("chip")) or report.machine.get("memory_speed")
    if bandwidth:
        measured = "" if known_bandwidth(report.machine.get("chip")) else ", as measured here"
        width = WIDTH[report.machine["backend"]]
        depths = np.linspace(0, max(each.depth for each in found) or 1, 50)
        roof = [bandwidth / token_bytes(config, dense, int(depth), width) for depth in depths]
        name = f"roofline: {bandwidth / GB:.0f} GB/s{measured}"
        axes.plot(depths, roof, color=GREY, linestyle="dashed", label=name)

    def quartiles(each: Measured, name: str) -> tuple[float, float, float]:
        rate = each.timing.rate(name, each.tokens)
        return rate.median, rate.low, rate.high

    _points(axes, report, found, quartiles)
    axes.set_ylim(bottom=0)
    return figure


def _memory(report: Report, found: list[Measured]) -> "Figure":
    figure, axes = _axes(report, "peak memory, GB")
    _points(axes, report, found, lambda each, name: (each.memory[name] / GB,) * 3)
    axes.set_ylim(bottom=0)
    return figure


def _axes(report: Report, what: str) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=150)
    axes = figure.subplots()
    axes.set(xlabel="tokens read before (depth)", ylabel=what)
    axes.set_title(f"{heading(report)}, {report.made[:10]}", fontsize=9)
    return figure, axes


def _points(
    axes: Any, report: Report, found: list[Measured], of: Callable[[Measured, str], tuple[float, float, float]]
) -> None:
    """Draw a line of each program's medians with their quartiles, and the legend."""
    for name, colour in zip(report.programs, COLOURS, strict=False):
        own = [each for each in found if name in each]
        values = np.array([of(each, name) for each in own]).T
        if own:
            middle, low, high = values
            errors = np.array([middle - low, high - middle])
            axes.errorbar([each.depth for each in own], middle, errors, color=colour, marker="o", capsize=3, label=name)
    axes.legend(frameon=False)
    in_grey(axes.figure)
