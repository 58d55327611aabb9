"""``make speed-report`` prints the speed model's fit, what was held out of it, and 20b on a 16 GB Mac, term by term.

All are predictions from published speeds. Nothing here was measured on a Mac.
"""

import numpy as np
from rich.console import Console
from rich.table import Table

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.errors import MemoryBudgetError
from gptoss_mlx.memory.plan import plan
from gptoss_mlx.prediction.macs import errors_rows, predictions
from gptoss_mlx.prediction.published_speeds import (
    GB,
    MLX_VLM,
    OMLX_CHIP,
    OMLX_HITS,
    OMLX_PROMPT,
    OMLX_PROMPTS,
    OMLX_RATES,
    PR_1588,
    ROWS,
)
from gptoss_mlx.prediction.speed import (
    FITTED,
    PEER_DISPATCHES,
    READBACK,
    Paging,
    Prediction,
    hit_rate,
    own_paging,
    predict,
    repeats,
    spread,
)

LRU_HIT = 0.84
"""Hit rate of gpt-oss-120b's decode with 30% of its experts resident, by the same: 0.80 to 0.87."""

PAGE_CACHED = 0.32
"""Misses that the page cache serves on 32 GB: 18 GB of experts, 2 of dense weights and 5 of macOS leave 7 GB, another
tenth of the experts, and by oMLX's curve that tenth takes a third of the misses."""

DECODING_MISSES = 0.16 / 0.34
"""Misses of decoding by those of everything: a hit rate of 0.66 over a lifetime was 0.84 in decode (mlx-lm issue
1438)."""

GEMMA = {"layers": 30, "experts": 8}
"""gemma-26b: its layers, and experts a token."""

SLOW_DISK = 1.5 * GB
"""An M2 with 256 GB reads so much a second."""


def pr_1588() -> tuple[float, float]:
    """Return the range of tokens a second of 120b with 30% resident on a Mac with 32 GB, whose chip is not named."""

    def rate(chip: str, disk: float) -> float:
        layers = PUBLISHED["120b"].num_hidden_layers
        paging = Paging(LRU_HIT, disk, READBACK[1], layers, cached=PAGE_CACHED)
        return predict(PUBLISHED["120b"], "q8", chip, dispatches=PEER_DISPATCHES, paging=paging).rate

    return spread(rate, chip=("M2 Pro", "M2 Max"), disk=(2 * GB, 7 * GB))


def mlx_vlm() -> tuple[float, float]:
    """Return the range of tokens a second of 20b on an M4 with 16 GB and as many slots as fit in what it took there.
    How much of the other experts is in the page cache is not known."""
    slots = plan(PUBLISHED["20b"], "q8", int(MLX_VLM[0]), "metal", context=4096).slots
    assert slots is not None
    hit = hit_rate(slots / PUBLISHED["20b"].num_local_experts)

    def rate(disk: float, readback: float, cached: float) -> float:
        layers = PUBLISHED["20b"].num_hidden_layers
        paging = Paging(hit, disk, readback, layers, cached=cached)
        return predict(PUBLISHED["20b"], "q8", "M4", dispatches=PEER_DISPATCHES, paging=paging).rate

    return spread(rate, disk=(2 * GB, 7 * GB), readback=READBACK, cached=(0.0, 1.0))


def omlx_fetch() -> tuple[float, float]:
    """Return the least and the most seconds that oMLX takes to bring an expert from the page cache into its slot: two
    standard errors about a fit to its prompts' times, which are none of its rates."""
    fetches, seconds, parts = (np.array(column, float) for column in zip(*OMLX_PROMPTS, strict=True))
    taken = seconds - OMLX_PROMPT
    given = np.stack([fetches, parts * GEMMA["layers"]], axis=1) / taken[:, None]  # errors count in parts of the time
    found, (squares,), _, _ = np.linalg.lstsq(given, np.ones(len(taken)))
    error = float(np.sqrt(squares / (len(taken) - 2) * np.linalg.inv(given.T @ given)[0, 0]))
    return float(found[0]) - 2 * error, float(found[0]) + 2 * error


def omlx(resident: float) -> tuple[float, float]:
    """Return the range of gemma-26b's speed relative to all resident on OMLX_CHIP, all of it in the page cache.

    Unknown are how long bringing an expert takes, how much of a readback's time on an M4 a faster chip saves (none, or
    as much as of a dispatch's), and the misses of decoding: as many as of the whole request, or by as much fewer as
    mlx-lm issue 1438 measured.
    """
    whole = 1 / OMLX_RATES[1.0]
    saved = FITTED.dispatch(OMLX_CHIP) / FITTED.dispatch("M4")

    def ratio(fetch: float, readback: float, decoding: float) -> float:
        missed = decoding * (1 - dict(OMLX_HITS)[resident]) * GEMMA["layers"] * GEMMA["experts"]
        return whole / (whole + GEMMA["layers"] * readback + missed * fetch)

    readbacks = READBACK[0] * saved, READBACK[1]
    return spread(ratio, fetch=omlx_fetch(), readback=readbacks, decoding=(DECODING_MISSES, 1.0))


def sixteen(context: int | None = None) -> tuple[int, dict[str, Prediction]]:
    """Return the slots of 20b in a layer on an M4 with 16 GB of which macOS keeps 5, with a disk of 1.5 GB/s, and
    predictions: all resident, and this runtime's two ways of paging."""
    config = PUBLISHED["20b"]
    slots = plan(config, "q8", 11 * 10**9, "metal", memory=16 * 10**9, context=context).slots
    assert slots is not None
    ways = own_paging(config, slots, SLOW_DISK, READBACK[1])
    kinds = {"all resident": None} | {f"{slots} of 32 slots, {name}": way for name, way in ways.items()}
    return slots, {name: predict(config, "q8", "M4", paging=paging) for name, paging in kinds.items()}


def needed(goal: float = 0.8) -> float:
    """Return the hit rate that brings 20b on such a Mac to ``goal`` of all resident's speed, in the better way."""
    config = PUBLISHED["20b"]
    allowed = predict(config, "q8", "M4").seconds / goal
    for thousandths in range(900, 1000):
        hit = thousandths / 1000
        cost = repeats(config, hit)
        ahead = Paging(hit, SLOW_DISK, READBACK[1], 1 + cost.count, cost.layers / config.num_hidden_layers, cost.vain)
        waiting = Paging(hit, SLOW_DISK, READBACK[1], config.num_hidden_layers)
        if min(predict(config, "q8", "M4", paging=way).seconds for way in (ahead, waiting)) <= allowed:
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
    found = predictions()
    table = Table(*errors_rows(found)[0])
    for row in errors_rows(found)[1]:
        table.add_row(*row)
    console.print(table)
    error = found["error"]
    console.print(
        f"each chip left out of its fit, {error['figures']} published speeds: median error {error['median']:.1%} (the "
        f"goal is {error['goal']:.0%}), mean {error['mean']:.1%}, at worst a factor of {error['factor']}"
    )

    low, high = pr_1588()
    console.print(f"held out: mlx-lm PR 1588, {PR_1588} tokens/s, predicted {low:.1f} to {high:.1f}")
    low, high = mlx_vlm()
    console.print(f"held out: mlx-vlm PR 1813, {MLX_VLM[1]} tokens/s, predicted {low:.1f} to {high:.1f}")
    for resident in (0.5, 0.25, 0.125):
        low, high = omlx(resident)
        ratio = OMLX_RATES[resident] / OMLX_RATES[1.0]
        console.print(
            f"held out: oMLX at {resident:.1%}, {ratio:.2f} of its whole speed, predicted {low:.2f} to {high:.2f}"
        )

    slower = sixteen()[1] | sixteen(context=8192)[1]
    whole = slower["all resident"]
    terms = dict.fromkeys(term for found in slower.values() for term in found.terms)
    table = Table("20b on 16 GB, ms a token", *slower)
    for term in terms:
        table.add_row(term, *(f"{1000 * found.terms.get(term, 0):.1f}" for found in slower.values()))
    table.add_row("in all", *(f"{1000 * found.seconds:.1f}" for found in slower.values()))
    table.add_row("tokens/s", *(f"{found.rate:.1f}" for found in slower.values()))
    table.add_row("of all resident", *(f"{found.rate / whole.rate:.0%}" for found in slower.values()))
    console.print(table)
    console.print(
        "The first slots are those of a context of 48,000 tokens and as many in the prefix cache, the second those of "
        f"8,192. 80% of all resident's speed leaves {1000 * whole.seconds / 4:.1f} ms a token beside the first two "
        "terms. The disk takes more, and so do the waits or the repeats alone: no disk is fast enough. It needs "
        f"{needed():.3f} of the chosen experts in memory, which is all of them: {smallest(context=8192) / GB:.1f} GB "
        "with a context of 8,192 tokens."
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
