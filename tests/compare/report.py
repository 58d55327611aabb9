"""The figures of ``make compare`` as tables, and the goals that they must reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table

from gptoss_mlx.bench.harness import CALM, Spread, Timing
from gptoss_mlx.bench.report import MAY_COMPUTE_IDLE
from tests.support.measure import relative_l2

OURS_Q8 = "gptoss-mac, q8"
OURS_BF16 = "gptoss-mac, bf16"
LLAMA = "llama.cpp, Q8_0"
MLX_FLOAT32 = "mlx-lm, float32"
MLX_BFLOAT16 = "mlx-lm, bf16"


@dataclass(frozen=True)
class Goal:
    """``other`` must take at least ``times`` as long as ``own`` at ``work``."""

    work: str
    other: str
    own: str
    times: float


GOALS = (
    Goal("decode", LLAMA, OURS_Q8, 1.0),
    Goal("decode 8 sequences", LLAMA, OURS_Q8, 1.0),
    Goal("pp128", LLAMA, OURS_Q8, 1 / 1.2),
    Goal("pp512", LLAMA, OURS_Q8, 1 / 1.2),
    Goal("decode", MLX_FLOAT32, OURS_BF16, 1.0),
    Goal("pp128", MLX_FLOAT32, OURS_BF16, 3.0),
)


@dataclass
class Group:
    """Programs that were measured beside each other, the first of which is ours: timings by work, and by program the
    last logits after a prompt and the most bytes that were resident."""

    own: str
    timings: dict[str, Timing] = field(default_factory=dict)
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def times(group: Group, title: str) -> Table:
    """Return what each program took for each work. A ratio over 1 means that ours is faster."""
    table = Table("work", "program", "seconds", "quartiles", "of ours", "quartiles", "some thread waited", title=title)
    for work, timing in group.timings.items():
        for name in group.logits:
            seconds = timing.seconds(name)
            ratio = timing.ratio(name, to=group.own)
            waited = "" if timing.waiting is None or name != group.own else f"{timing.waiting:.0%} of the time"
            figures = (f"{seconds.median:.4f}", _quartiles(seconds), f"{ratio.median:.2f}x", _quartiles(ratio))
            table.add_row(work, name, *figures, waited)
        table.add_section()
    return table


def _quartiles(spread: Spread) -> str:
    return f"{spread.low:.3g} to {spread.high:.3g}"


def programs(groups: Sequence[Group]) -> Table:
    """Return each program's memory, how far its logits are from those of ours with bf16 weights, and what it computed
    while others were measured."""
    exact = next(group.logits[OURS_BF16] for group in groups if OURS_BF16 in group.logits)
    table = Table("program", "resident at most", f"logits, L2 from {OURS_BF16}", "busy while others worked")
    for group in groups:
        for name, logits in group.logits.items():
            idle = [timing.idle[name] for timing in group.timings.values() if name in timing.idle]
            busy = f"{max(idle):.1%} of a core" if idle else "not measured"
            table.add_row(name, f"{group.memory[name] / 1e9:.2f} GB", f"{relative_l2(logits, exact):.1e}", busy)
    return table


def missed(groups: Sequence[Group]) -> list[str]:
    """Return the goals that are not reached and the measurements that were disturbed, each in a line."""
    timings = {(group.own, work): timing for group in groups for work, timing in group.timings.items()}
    out = []
    for goal in GOALS:
        ratio = timings[goal.own, goal.work].ratio(goal.other, to=goal.own).median
        if ratio < goal.times:
            asked = f"{goal.times:.2f}x is asked for"
            out.append(f"{goal.work}: {goal.other} takes {ratio:.2f}x of the time of {goal.own}, {asked}")
    for (own, work), timing in timings.items():
        if timing.waiting is not None and timing.waiting > CALM:
            waited = f"some thread waited for a core in {timing.waiting:.0%} of the time"
            out.append(f"{work}, {own} and others: {waited}; measure again when nothing else runs")
        for name, share in timing.idle.items():
            if share > MAY_COMPUTE_IDLE:
                out.append(f"{work}: {name} kept {share:.0%} of a core busy while others were measured")
    return out
