"""``make compare``: time decode and prefill of ours and of mlx-lm on the same weights, two layers of 20b shape.

mlx-lm runs in bf16, as it loads, and in float32. All use the BLAS that ``metal_kernels`` preloads. Times on a CPU
backend say nothing about a Mac. The ratios only show that our path without shaders wastes no time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import metal_kernels  # noqa: F401  (a BLAS for everyone, before mlx)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from convert import convert
from tests.support.checkpoints import TWO_LAYERS_OF_20B, write_checkpoint

PREFILL = 128
STEPS = 16
Step = Callable[[list[int]], mx.array]


def ours(folder: Path) -> Callable[[], Step]:
    runtime = gptoss_mlx.load(folder, dtype="float32")

    def start() -> Step:
        context = runtime.context()

        def step(ids: list[int]) -> mx.array:
            x = runtime.model(mx.array([ids]), context.cache)[:, -1:]
            logits = runtime.model.logits(x)
            mx.eval(logits, context.cache.arrays())
            return logits[0, -1]

        return step

    return start


def theirs(checkpoint: Path, dtype: mx.Dtype | None) -> Callable[[], Step]:
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    model, _ = load_model(checkpoint)
    if dtype is not None:
        model.update(tree_map(lambda a: a.astype(dtype) if a.dtype == mx.bfloat16 else a, model.parameters()))
    mx.eval(model.parameters())

    def start() -> Step:
        cache = make_prompt_cache(model)

        def step(ids: list[int]) -> mx.array:
            logits = model(mx.array([ids]), cache=cache)[:, -1:]
            mx.eval(logits, [c.state for c in cache])
            return logits[0, -1]

        return step

    return start


def prefill(start: Callable[[], Step], prompt: list[int]) -> tuple[float, Step, np.ndarray]:
    """Return the seconds of the prefill (the better of two), the step function after it, and its last logits."""
    seconds = []
    for _ in range(2):
        step = start()
        begin = time.perf_counter()
        logits = step(prompt)
        seconds.append(time.perf_counter() - begin)
        if seconds[0] > 60:
            break
    return min(seconds), step, np.array(logits.astype(mx.float32))


def decode(programs: list[Step], prompt: list[int]) -> list[float]:
    """Return the median seconds of a step of each. Steps alternate, so that other load affects all alike."""
    seconds: list[list[float]] = [[] for _ in programs]
    for token in prompt[:STEPS]:
        for step, taken in zip(programs, seconds, strict=True):
            begin = time.perf_counter()
            step([token])
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken) for taken in seconds]


def main() -> int:
    prompt = np.random.default_rng(0).integers(0, 201088, PREFILL).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = write_checkpoint(folder / "checkpoint", TWO_LAYERS_OF_20B, shards=8)
        convert(checkpoint, folder / "model", dense="bf16")
        names = ("gptoss-mac, float32", "mlx-lm, float32", "mlx-lm, bf16 as it loads")
        made = (ours(folder / "model"), theirs(checkpoint, mx.float32), theirs(checkpoint, None))
        read = [prefill(start, prompt) for start in made]
        steps = decode([step for _, step, _ in read], prompt)
        rows = {name: (r[0], step, r[2]) for name, r, step in zip(names, read, steps, strict=True)}
    own_prefill, own_step, own_logits = rows["gptoss-mac, float32"]
    table = Table(
        "program", f"prefill {PREFILL}, s", "ours is faster by", "decode step, s", "ours is faster by", "logits, L2"
    )
    for name, (reading, step, logits) in rows.items():
        apart = np.linalg.norm(logits - own_logits) / np.linalg.norm(own_logits)
        table.add_row(
            name,
            f"{reading:.2f}",
            f"{reading / own_prefill:.2f}x",
            f"{step:.3f}",
            f"{step / own_step:.2f}x",
            f"{apart:.1e}",
        )
    Console(width=110).print(table)
    reading, step, _ = rows["mlx-lm, float32"]
    if reading / own_prefill < 3 or step / own_step < 1:
        print("compare: below the figures asked for (prefill 3x, decode 1x of float32 mlx-lm)")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
