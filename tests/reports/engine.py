"""``make engine-report`` measures what a turn reads, how fast a session is restored, and a batch's throughput.

Only ratios within one run mean anything, because the CPU does the work and is shared. ``--large`` adds
two layers of true 20b shape: 7 GB of disk and 8 GB of memory.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import mlx.core as mx
import numpy as np
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from convert import convert
from gptoss_mlx.bench.harness import Spread
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.bundled import checkpoint as bundled_checkpoint
from gptoss_mlx.engine.batching import Batch, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling
from tests.support.checkpoints import SMALL, TWO_LAYERS_OF_20B, write_checkpoint
from tests.support.measure import relative_l2
from tests.support.models import random_model

GREEDY = Sampling(temperature=0)
ROWS = (1, 4, 16)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Yield a list to which each call of the decoder adds how many tokens it reads."""
    counts: list[int] = []
    real = Decoder.__call__

    def call(self, tokens, cache):
        counts.append(tokens.shape[1])
        return real(self, tokens, cache)

    with mock.patch.object(Decoder, "__call__", call):
        yield counts


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def random_ids(seed: int, length: int, vocabulary: int = 512) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocabulary, length).tolist()


def second_turn(runtime: Runtime) -> tuple[list[str], bool]:
    """Measure a second turn of 60 tokens, after a first of 4,000 and a reply of 32 that is not kept."""
    first = random_ids(1, 4000)
    new = random_ids(2, 60)
    context = runtime.context()
    list(generate(context, first, max_tokens=32, sampling=GREEDY, stop=()))
    with counted() as read:
        warm = seconds(lambda: next(generate(context, first + new, max_tokens=1, sampling=GREEDY, stop=())))
    cold = seconds(lambda: next(generate(runtime.context(), first + new, max_tokens=1, sampling=GREEDY, stop=())))
    line = [
        "second turn after 4,000 tokens",
        f"{sum(read)} of {len(first + new)} tokens read",
        f"{warm / cold:.1%} of cold",
    ]
    return line, sum(read) == len(new) and warm <= 0.05 * cold


def restored_context(runtime: Runtime, folder: Path) -> tuple[list[str], bool]:
    """Measure writing 8,000 tokens to disk and reading them back."""
    ids = random_ids(3, 8000)
    context = runtime.context()
    cold = seconds(lambda: mx.eval(context.read(ids)))
    context.mark()
    snapshots = Snapshots(BoundedFolder(folder / "snapshots", 1 << 30))
    snapshots.save(runtime.model_key, context.ids, context.cache, context.marks)
    snapshots.writer.close()
    tail = random_ids(4, 20)
    back = []
    restore = seconds(lambda: back.append(snapshots.load(runtime.model_key, runtime.model, ids + tail, len(ids))))
    apart = relative_l2(np.array(back[0].read(ids + tail)), np.array(context.read(ids + tail)))
    line = [
        "restoring 8,000 tokens from disk",
        f"logits apart by {apart:.1e}",
        f"{cold / restore:.0f}x faster than reading",
    ]
    return line, cold / restore >= 20 and apart <= 1e-5


def ours_batched(runtime: Runtime, rows: int, prompt: int, steps: int) -> float:
    """Return the tokens a second of ``steps`` steps in which all rows are decoding."""
    batch = Batch(runtime.model, max_rows=rows)
    for number in range(rows):
        ids = random_ids(number, prompt, runtime.config.vocab_size)
        batch.add(Row(number, ids, runtime.context(), steps + rows + 2, GREEDY, frozenset()))
    while len(batch.decoding) < rows:
        batch.step()
    batch.step()
    start = time.perf_counter()
    produced = sum(len(batch.step()) for _ in range(steps))
    assert produced == steps * rows
    return produced / (time.perf_counter() - start)


def batches(
    name: str, checkpoint: Path, folder: Path, prompt: int, steps: int, turns: int
) -> tuple[list[list[str]], float]:
    """Return the table's lines for 1, 4 and 16 rows, which take turns, and the rate of 16 rows over that of one."""
    convert(checkpoint, folder, dense="bf16")
    runtime = gptoss_mlx.load(folder, dtype="float32")
    rates = [{rows: ours_batched(runtime, rows, prompt, steps) for rows in ROWS} for _ in range(turns)]
    lines = []
    for rows in ROWS:
        rate = Spread.of(turn[rows] for turn in rates)
        gain = Spread.of(turn[rows] / turn[1] for turn in rates)
        gains = f"{gain.median:.2f}x one row ({gain.low:.2f} to {gain.high:.2f})"
        lines.append([f"{name}, {rows} rows", f"{rate.median:.1f} tokens/s", gains])
    return lines, gain.median


def main() -> int:
    table = Table("what", "measured", "beside")
    missed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = random_model(folder / "small", SMALL, seed=5)
        for line, reached in (second_turn(small), restored_context(small, folder)):
            table.add_row(*line)
            if not reached:
                missed.append(line[0])
        lines, gain = batches("bundled model", bundled_checkpoint(), folder / "tiny", prompt=16, steps=64, turns=5)
        for line in lines:
            table.add_row(*line)
        if gain < 2.5:
            missed.append("16 rows of the bundled model at 2.5 times one")
        if "--large" in sys.argv:
            checkpoint = write_checkpoint(folder / "20b", TWO_LAYERS_OF_20B, shards=8)
            for line in batches("two layers of 20b", checkpoint, folder / "20b-model", prompt=4, steps=6, turns=3)[0]:
                table.add_row(*line)
    Console(width=120).print(table)
    if missed:
        print(f"engine-report: not reached: {'; '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
