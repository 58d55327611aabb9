"""Predictions for each chip beside the speeds that others published and the roofline, with the error of the model.

They are numbered. A number's predictions never change: other numbers take the next. ``benchmarks/predictions`` has all.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.prediction.published_speeds import BANDWIDTH, FIT_ROWS, ROWS, Published
from gptoss_mlx.prediction.speed import FITTED, OWN_DISPATCHES, PEER_DISPATCHES, left_out, predict, roofline

VERSION = 2
DATE = "2026-11-27"
"""When predictions of this number were made."""

CONTEXTS = (0, 8192)
"""Tokens that have been read."""

GOAL = 0.15
"""The median error that was aimed at."""

LARGE = ("M2 Max", "M3 Max", "M4 Max", "M5 Max", "M1 Ultra", "M2 Ultra", "M3 Ultra")
"""Chips with 96 GB or more, by Apple's specifications: all of 120b's experts fit."""


class Predictions(TypedDict):
    """What is predicted, as JSON's values. Rates are tokens a second of one sequence."""

    version: int
    date: str
    parameters: dict[str, float]
    error: dict[str, Any]
    models: dict[str, list[dict[str, Any]]]


def predictions() -> Predictions:
    """Return the predictions for this runtime, q8, with all experts in memory."""
    missed = left_out()
    errors = [abs(rate / row.rate - 1) for row, rate in missed]
    return {
        "version": VERSION,
        "date": DATE,
        "parameters": vars(FITTED).copy(),
        "error": {
            "median": round(float(np.median(errors)), 4),
            "mean": round(float(np.mean(errors)), 4),
            "factor": round(max(max(rate / row.rate, row.rate / rate) for row, rate in missed), 2),
            "goal": GOAL,
            "figures": len(missed),
            "published": len(FIT_ROWS),
            "left_out": [_published(row) | {"predicted": round(rate, 1)} for row, rate in missed],
        },
        "models": {name: [_of(name, chip) for chip in BANDWIDTH if _fits(name, chip)] for name in PUBLISHED},
    }


def _of(model: str, chip: str) -> dict[str, Any]:
    config = PUBLISHED[model]
    at = {
        str(context): {
            "predicted": round(predict(config, "q8", chip, context=context).rate, 1),
            "roofline": round(roofline(config, "q8", chip, context), 1),
        }
        for context in CONTEXTS
    }
    return {
        "chip": chip,
        "bandwidth": BANDWIDTH[chip],
        "depth": at,
        "published": [_published(row) for row in ROWS if (row.model, row.chip) == (model, chip)],
    }


def _fits(model: str, chip: str) -> bool:
    return model == "20b" or chip in LARGE


def _published(row: Published) -> dict[str, Any]:
    found = {"model": row.model, "chip": row.chip, "dense": row.dense, "engine": row.engine, "depth": row.context}
    return found | {"rate": row.rate, "source": row.source, "doubt": row.doubt}


Rows = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A table: its heading and its rows."""


def macs_rows(found: Predictions, model: str) -> Rows:
    """Return the table of a model's predictions."""
    shallow, deep = map(str, CONTEXTS)
    head = ("chip", "published by others", "prediction, tg128", f"prediction, tg128@d{deep}", "roofline")
    rows = []
    for each in found["models"][model]:
        published = ", ".join(
            f"{row['rate']:g} ({row['engine']}, {row['dense']}{'?' if row['doubt'] else ''})"
            for row in each["published"]
        )
        at = each["depth"]
        rates = (at[shallow]["predicted"], at[deep]["predicted"], at[shallow]["roofline"])
        rows.append((each["chip"], published or "none known", *(f"{rate:.0f}" for rate in rates)))
    return head, rows


def errors_rows(found: Predictions) -> Rows:
    """Return the table of what is predicted of rates whose chip is left out of the fit."""
    head = ("chip left out", "model", "engine", "published", "prediction", "off by")
    rows: list[tuple[str, ...]] = []
    for row in found["error"]["left_out"]:
        off = row["predicted"] / row["rate"] - 1
        model = f"{row['model']}, {row['dense']}"
        rows.append((row["chip"], model, row["engine"], f"{row['rate']:g}", f"{row['predicted']:.1f}", f"{off:+.0%}"))
    return head, rows


def error_lines(found: Predictions) -> list[str]:
    """Return in sentences what the predictions are, and by how much they are off."""
    error = found["error"]
    met = "reached" if error["median"] < error["goal"] else "missed"
    return [
        f"Predictions number {found['version']}, of {found['date']}. This project has measured nothing on a Mac.",
        "Tokens a second of one sequence, with all experts in memory and dense weights in q8. A published speed with a "
        "question mark is an average over whole requests, or doubtful otherwise; q4 has fewer bytes to read.",
        f"Five numbers are fitted to {error['published']} published speeds of other programs. Where a chip is left out "
        f"of the fit, its published speeds are predicted with a median error of {error['median']:.1%} "
        f"({error['figures']} speeds; the goal of {error['goal']:.0%} is {met}). The mean is {error['mean']:.1%}, the "
        f"worst is off by a factor of {error['factor']}. The only M5 cannot be left out.",
        "The fit takes the least absolute errors, because programs on one chip differ by up to 1.5 times, which "
        "squares would follow. It was chosen after the least squares of predictions number 1 had shown a median of "
        "25.6%, and losses between the two have medians between theirs. So expect of a chip that nobody has published "
        "about what the mean says, rather than the median.",
        f"Other programs are taken to launch {PEER_DISPATCHES} dispatches a layer. Ours launches {OWN_DISPATCHES}, "
        "counted without a GPU: what is predicted of it above theirs rests on that count, and on nothing published.",
        "The roofline is the chip's bandwidth over the bytes that a token reads: nothing can be faster.",
    ]
