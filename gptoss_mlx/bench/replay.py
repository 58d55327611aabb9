"""Print what a trace of experts would cost with other memory, policies and disks.

    python -m gptoss_mlx.bench.replay trace.jsonl --slots 4 --slots 6
    python -m gptoss_mlx.bench.replay --invent 20b --skew 0.6 --stay 0.5 --memory 8GB --memory 11GB --chip M4 --disk 1.5

``gptoss-mac run --trace-experts trace.jsonl`` makes a trace. Hit rates are those of decoding. Tokens a second are
predicted from published speeds, and only for the published models.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptoss_mlx.config import PUBLISHED, ModelConfig
from gptoss_mlx.errors import GptOssError, UsageError
from gptoss_mlx.limits import memory_limit
from gptoss_mlx.memory.plan import plan
from gptoss_mlx.prediction.expert_trace import read_trace
from gptoss_mlx.prediction.published_speeds import BANDWIDTH, GB
from gptoss_mlx.prediction.replay import POLICIES, Played, Policy, Step, as_run, invented, kept_ahead, played, steps
from gptoss_mlx.prediction.speed import KEPT, READBACK, Paging, predict

TOKENS = 300
"""Tokens that are invented."""
EIGHTHS = 8
"""Without --slots and --memory, each eighth of the experts is tried that holds a token's."""


def rate(config: ModelConfig, chip: str, disk: float, found: Played, *, ahead: bool, dense: str = "q8") -> float:
    """Return predicted tokens a second with a disk of so many bytes a second, of steps that run ahead or that wait for
    the choice in every layer. The readback is the slowest published."""
    tally = found.tally
    readbacks = tally.readbacks / found.steps if ahead else config.num_hidden_layers
    repeated = found.repeated / found.steps if ahead else 0.0
    paging = Paging(tally.hit, disk, READBACK[1], readbacks, repeated)
    return predict(config, dense, chip, paging=paging).rate


Results = dict[str, dict[Policy, Played]]
"""What decoding costs, by the name of a size and by policy."""


def results_of(
    taken: Sequence[Step], experts: int, sizes: dict[str, int], policies: Sequence[Policy], kept: float = KEPT
) -> Results:
    """Return what steps cost with each of ``sizes``, which are slots by name. ``kept`` is that of ``played``."""
    return {
        name: {policy: played(taken, experts, slots, policy, kept) for policy in policies}
        for name, slots in sizes.items()
    }


def hits_table(results: Results) -> Table:
    """Return hit rates by size and policy."""
    table = Table("hit rate", *next(iter(results.values())))
    for name, row in results.items():
        table.add_row(name, *(f"{found.tally.hit:.3f}" for found in row.values()))
    return table


def rates_table(config: ModelConfig, chip: str, disks: Sequence[float], results: Results) -> Table:
    """Return predicted tokens a second by size, policy and disk. What is no "ahead" waits in every layer."""
    table = Table(f"tokens/s on {chip}, predicted", "policy", *(f"{disk / GB:g} GB/s" for disk in disks))
    for name, row in results.items():
        for policy, found in row.items():
            ahead = policy.endswith("ahead")
            rates = (rate(config, chip, disk, found, ahead=ahead) for disk in disks)
            table.add_row(name, policy, *(f"{each:.1f}" for each in rates))
    return table


def sizes_of(config: ModelConfig, budgets: Sequence[int]) -> dict[str, int]:
    """Return the slots of a layer that the plan gives each budget on Metal, with what to call them."""
    found = {}
    for budget in budgets:
        slots = plan(config, "q8", budget, "metal").slots
        slots = config.num_local_experts if slots is None else slots
        found[f"{budget / GB:g} GB: {slots} of {config.num_local_experts} slots"] = slots
    return found


def _report(given: argparse.Namespace) -> None:
    console = Console(width=120, highlight=False, markup=False)
    share = KEPT
    if given.trace is not None:
        about, looks = read_trace(given.trace)
        taken, experts, layers, least = steps(about, looks), about.experts, about.layers, about.per_token
        console.print(f"{given.trace}: {about.model}, {sum(not step.prompt for step in taken):,} steps of decoding")
        for name, tally in zip(("decoding", "prompts"), as_run(about, looks), strict=True):
            console.print(
                f"as it ran with {about.slots} of {experts} slots, {name}: {tally.wanted:,} experts chosen, "
                f"{tally.misses:,} read, {tally.repeats:,} repeats, {tally.readbacks:,} readbacks"
            )
        if kept := kept_ahead(about, looks):
            share = sum(kept) / len(kept)
            shares = ", ".join(f"{each:.2f}" for each in kept)
            console.print(
                f"of what layers behind a missed one chose, they kept: {shares} (the next layer, the one after, ...)"
            )
    else:
        config = PUBLISHED[given.invent]
        experts, layers, least = config.num_local_experts, config.num_hidden_layers, config.num_experts_per_tok
        taken = invented(layers, experts, least, given.tokens, skew=given.skew, stay=given.stay, seed=given.seed)
        console.print(f"{given.invent}, {given.tokens} tokens invented: skew {given.skew:g}, stay {given.stay:g}")
    if not any(not step.prompt for step in taken):
        raise UsageError("the trace has no step of decoding; let the model answer")
    shape = next(
        (c for c in PUBLISHED.values() if (c.num_local_experts, c.num_hidden_layers) == (experts, layers)), None
    )
    if given.memory and shape is None:
        raise UsageError("--memory needs the sizes of 20b or 120b; give --slots")
    sizes = {f"{slots} of {experts} slots": slots for slots in given.slots}
    if shape is not None:
        sizes |= sizes_of(shape, [memory_limit(text) or 0 for text in given.memory])
    if not sizes:
        eighths = sorted({max(least, -(-experts * n // EIGHTHS)) for n in range(1, EIGHTHS + 1)})
        sizes = {f"{slots} of {experts} slots": slots for slots in eighths}
    if bad := [slots for slots in sizes.values() if not least <= slots <= experts]:
        raise UsageError(f"slots is {bad[0]}; it must be from {least} to {experts}")
    console.print(f"running ahead, layers behind a missed one are taken to keep {share:.2f} of their choice")
    results = results_of(taken, experts, sizes, POLICIES, share)
    console.print(hits_table(results))
    one_row = all(step.chosen.shape[1] == 1 for step in taken if not step.prompt)
    if shape is not None and one_row:
        disks = [disk * GB for disk in given.disk or (2, 6, 13)]
        console.print(rates_table(shape, given.chip, disks, results))
        console.print("Speeds are predicted from published ones of other programs. Nobody has measured them.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="replay", description="Play choices of experts again, with other memory.")
    parser.add_argument("trace", type=Path, nargs="?", help="what --trace-experts has written")
    parser.add_argument("--invent", choices=PUBLISHED, help="invent choices for a model's sizes instead")
    parser.add_argument(
        "--skew", type=float, default=0.6, help="an expert's likelihood falls with its rank to this power"
    )
    parser.add_argument("--stay", type=float, default=0.5, help="likelihood that an expert is chosen again")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="how many to invent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slots", type=int, action="append", default=[], help="experts that a layer holds")
    parser.add_argument("--memory", action="append", default=[], help="what the model may take in all, such as 11GB")
    parser.add_argument("--chip", choices=BANDWIDTH, default="M4 Pro")
    parser.add_argument("--disk", type=float, action="append", help="GB a second that it is read at")
    given = parser.parse_args()
    if (given.trace is None) == (given.invent is None):
        parser.error("give a trace, or --invent")
    try:
        _report(given)
    except GptOssError as error:
        sys.exit(f"replay: {error}")


if __name__ == "__main__":
    main()
