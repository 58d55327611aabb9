"""``gptoss-mac doctor`` for Macs that work together: what each would hold of a model, and a predicted speed."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gptoss_mlx.cli.terminal import print_json, table_console

if TYPE_CHECKING:
    from gptoss_mlx.distributed.macs import Joined


def show_macs(text: str, context: int | None, as_json: bool) -> None:
    """Print a table for each published model, or all as JSON. Raises UsageError for what names no Macs."""
    from rich.table import Table

    from gptoss_mlx.config import PUBLISHED
    from gptoss_mlx.distributed.macs import PASSAGE, join_macs, read_macs
    from gptoss_mlx.errors import MemoryBudgetError, UsageError
    from gptoss_mlx.prediction.speed import WORST_ERROR

    macs = read_macs(text)
    found: dict[str, Joined | str] = {}
    for name, config in PUBLISHED.items():
        try:
            found[name] = join_macs(config, "q8", macs, context)
        except (MemoryBudgetError, UsageError) as error:
            found[name] = str(error)
    if as_json:
        print_json({name: _as_json(joined) for name, joined in found.items()})
        return
    console = table_console()
    for name, joined in found.items():
        if isinstance(joined, str):
            console.print(f"{name}: {joined}", markup=False)
            continue
        table = Table(
            "rank", "Mac", "layers", "GB", "of", "experts in memory", "ms a token", title=f"Predictions for {name}"
        )
        for rank, (mac, share) in enumerate(zip(joined.macs, joined.shares, strict=True)):
            plan = share.plan
            held = "all" if plan.slots is None else f"{plan.slots} of {PUBLISHED[name].num_local_experts} a layer"
            spent = "-" if joined.seconds is None else f"{joined.seconds[rank] * 1e3:.1f}"
            layers = f"{share.layers.start} to {share.layers.stop - 1}"
            sizes = (f"{plan.peak / 1e9:.2f}", f"{plan.budget / 1e9:.2f}")
            table.add_row(str(rank), str(mac), layers, *sizes, held, spent)
        console.print(table)
        console.print(f"context: {joined.shares[0].plan.context:,} tokens")
        for link, passage in PASSAGE.items():
            rate = joined.rate(passage)
            said = "none, because experts are read from disk" if rate is None else f"{rate:.0f} tokens/s"
            console.print(f"prediction, {link}: {said}")
    console.print(
        "Nothing of this was measured on a Mac. A token's time is the sum over the Macs, each predicted from published "
        f"speeds of single Macs, which may be off by a factor of {WORST_ERROR:.1f}, and of a passage from each Mac to "
        "the next, whose time others published."
    )


def _as_json(joined: "Joined | str") -> dict[str, Any]:
    """Return a plan as JSON's values. Rates and seconds are predictions; null is where there is none."""
    from gptoss_mlx.distributed.macs import PASSAGE

    if isinstance(joined, str):
        return {"problem": joined}
    ranks = [
        {
            "mac": str(mac),
            "layers": [share.layers.start, share.layers.stop - 1],
            "plan": asdict(share.plan) | {"peak": share.plan.peak},
            "predicted_seconds_per_token": None if joined.seconds is None else joined.seconds[rank],
        }
        for rank, (mac, share) in enumerate(zip(joined.macs, joined.shares, strict=True))
    ]
    rates = {link: joined.rate(passage) for link, passage in PASSAGE.items()}
    return {"ranks": ranks, "predicted_tokens_per_second": rates}
