"""How long masks take beside a step of the device: part of ``make structured-report``.

The stand-in for a model draws uniformly and takes STEP seconds a step, in which the host makes the masks of all rows
(a test holds the engine's loop to that order). So a step waits for what the masks take beyond it, and for what
following the drawn id takes. Times are those of the thread's own work, because other programs run here too.
"""

import time

import numpy as np

from gptoss_mlx.engine.constraint import allowed, follow
from gptoss_mlx.errors import ConstraintError
from gptoss_mlx.grammars import Grammar, Vocabulary

ROWS = 8
STEP = 0.010
MEDIAN, P99 = 0.5e-3, 10e-3


def report(vocabulary: Vocabulary, size: int, grammars: list[Grammar], steps: int) -> bool:
    """Measure ``steps`` steps of ROWS rows under ``grammars``, one after the other. Print and return whether the waits
    are short enough."""
    rng = np.random.default_rng(0)
    made, followed = [], []
    waiting = iter(grammars * steps)
    rows: list = []
    while len(made) < steps:
        while len(rows) < ROWS:
            row = vocabulary.constraint(next(waiting))
            if follow(row, None)[-1:] != [row.end]:
                rows.append(row)
        begun = time.thread_time()
        masks = [allowed(row, size) for row in rows]
        made.append(time.thread_time() - begun)
        going = []
        drawn = [np.flatnonzero(np.unpackbits(np.array(mask).view(np.uint8), bitorder="little")) for mask in masks]
        ids = [int(rng.choice(one)) for one in drawn]
        begun = time.thread_time()
        for row, id in zip(rows, ids, strict=True):
            try:
                if id != row.end and follow(row, id)[-1:] != [row.end] and row.length < 400:
                    going.append(row)
            except ConstraintError:
                pass
        followed.append(time.thread_time() - begun)
        rows = going
    waits = np.maximum(np.array(made) - STEP, 0)
    good = bool(np.median(waits) < MEDIAN and np.percentile(waits, 99) < P99)
    print(f"{steps:,} steps of {ROWS} rows, real vocabulary, in ms (median, p99, largest):")
    for what, values in (("masks", made), (f"wait beyond {STEP * 1e3:.0f} ms", waits), ("following", followed)):
        shown = np.median(values), np.percentile(values, 99), np.max(values)
        print(f"  {what:20} " + ", ".join(f"{value * 1e3:.3f}" for value in shown))
    return good
