"""``make speed-report`` prints the speed model's fit, what was held out of it, and 20b on a 16 GB Mac, term by term.

All are predictions from published speeds. Nothing here was measured on a Mac.
"""

from rich.console import Console
from rich.table import Table

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.engine.memory import plan
from gptoss_mlx.engine.published_speeds import GB, OMLX_HITS, OMLX_RATES, PR_1588, ROWS
from gptoss_mlx.engine.speed import (
    FITTED,
    PEER_DISPATCHES,
    READBACK,
    Paging,
    Prediction,
    left_out_errors,
    own_paging,
    predict,
    repeated_share,
    spread,
)
from gptoss_mlx.errors import MemoryBudgetError

LRU_HIT = 0.84
"""Hit rate of gpt-oss-120b's decode with 30% of its experts resident, by the same: 0.80 to 0.87."""

PAGE_CACHED = 0.32
"""Misses that the page cache serves on 32 GB: 18 GB of experts, 2 of dense weights and 5 of macOS leave 7 GB, another
tenth of the experts, and by oMLX's curve that tenth takes a third of the misses."""

GEMMA = {"layers": 30, "experts": 8, "nbytes": 3 * 2816 * 704 * 4.5 / 8}
"""gemma-26b: its layers, experts a token, and bytes of an expert in 4 bits."""


def pr_1588() -> tuple[float, float]:
    """Return the range of tokens a second of 120b with 30% resident on a Mac with 32 GB, whose chip is not named."""

    def rate(chip: str, disk: float) -> float:
        layers = PUBLISHED["120b"].num_hidden_layers
        paging = Paging(LRU_HIT, disk, READBACK[1], layers, cached=PAGE_CACHED)
        return predict(PUBLISHED["120b"], "q8", chip, dispatches=PEER_DISPATCHES, paging=paging).rate

    return spread(rate, chip=("M2 Pro", "M2 Max"), disk=(2 * GB, 7 * GB))


def omlx(resident: float) -> tuple[float, float]:
    """Return the range of gemma-26b's speed relative to all resident. All of it fits the machine, so the page cache has
    what the slots have not: a readback and one reading thread or two are what is unknown."""
    whole = 1 / OMLX_RATES[1.0]

    def ratio(readback: float, warm: float) -> float:
        missed = (1 - dict(OMLX_HITS)[resident]) * GEMMA["layers"] * GEMMA["experts"] * GEMMA["nbytes"]
        return whole / (whole + GEMMA["layers"] * readback + missed / warm)

    return spread(ratio, readback=READBACK, warm=(10.6 * GB, 1.3 * 10.6 * GB))


def sixteen(disk: float = 1.5 * GB, readback: float = READBACK[1]) -> tuple[int, dict[str, Prediction]]:
    """Return the slots of 20b in a layer on an M4 with 16 GB of which macOS keeps 5, and predictions: all resident, as
    this runtime pages, and with the router read back in every layer."""
    config = PUBLISHED["20b"]
    slots = plan(config, "q8", 11 * 10**9, "metal", memory=16 * 10**9).slots
    assert slots is not None
    own = own_paging(config, slots, disk, readback)
    asking = Paging(own.hit, disk, readback, config.num_hidden_layers)
    kinds = {"all resident": None, "repeating a step": own, "asking every layer": asking}
    return slots, {name: predict(config, "q8", "M4", paging=paging) for name, paging in kinds.items()}


def needed(goal: float = 0.8, disk: float = 1.5 * GB, readback: float = READBACK[1]) -> float:
    """Return the hit rate that brings 20b on such a Mac to ``goal`` of all resident's speed, as this runtime pages."""
    config = PUBLISHED["20b"]
    allowed = sixteen()[1]["all resident"].seconds / goal
    for thousandths in range(900, 1000):
        hit = thousandths / 1000
        missing = 1 - hit ** (config.num_experts_per_tok * config.num_hidden_layers)
        paging = Paging(hit, disk, readback, 1 + missing, repeated_share(config, hit))
        if predict(config, "q8", "M4", paging=paging).seconds <= allowed:
            return hit
    return 1.0


def main() -> None:
    console = Console()
    console.print(f"predictions, from published speeds: {FITTED}")
    table = Table("model", "dense", "chip", "engine", "published", "predicted", "in the fit")
    for row in ROWS:
        found = predict(PUBLISHED[row.model], row.dense, row.chip, context=row.context, dispatches=PEER_DISPATCHES)
        doubt = row.doubt or "yes"
        table.add_row(row.model, row.dense, row.chip, row.engine, f"{row.rate:.1f}", f"{found.rate:.1f}", doubt)
    console.print(table)
    left_out = ", ".join(f"{chip} {factor:.2f}" for chip, factor in left_out_errors().items())
    console.print(f"off by a factor, each chip left out of its fit: {left_out}")

    low, high = pr_1588()
    console.print(f"held out: mlx-lm PR 1588, {PR_1588} tokens/s, predicted {low:.1f} to {high:.1f}")
    for resident in (0.5, 0.25, 0.125):
        low, high = omlx(resident)
        ratio = OMLX_RATES[resident] / OMLX_RATES[1.0]
        console.print(
            f"held out: oMLX at {resident:.1%}, {ratio:.2f} of its whole speed, predicted {low:.2f} to {high:.2f}"
        )

    slots, predictions = sixteen()
    table = Table("20b on 16 GB, ms a token", *predictions)
    for term in predictions["repeating a step"].terms:
        table.add_row(term, *(f"{1000 * found.terms.get(term, 0):.1f}" for found in predictions.values()))
    table.add_row("in all", *(f"{1000 * found.seconds:.1f}" for found in predictions.values()))
    table.add_row("tokens/s", *(f"{found.rate:.1f}" for found in predictions.values()))
    console.print(table)
    resident = smallest(context=8192)
    console.print(
        f"{slots} of 32 slots. For 80% of all resident's speed {needed():.3f} of the chosen experts must be in memory: "
        f"all of them, which take {resident / GB:.1f} GB with a context of 8,192 tokens."
    )


def smallest(context: int) -> int:
    """Return the smallest budget, to a tenth of a gigabyte, that holds all of 20b's experts and such a context."""
    for tenths in range(100, 300):
        try:
            found = plan(PUBLISHED["20b"], "q8", tenths * 10**8, "metal", context=context)
        except MemoryBudgetError:
            continue
        if found.slots is None and found.context == context:
            return tenths * 10**8
    raise AssertionError("30 GB hold 20b")


if __name__ == "__main__":
    main()
