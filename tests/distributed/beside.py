"""``python -m tests.distributed.beside N``: do the same with a model on N ranks and with one in this process.

Prints a JSON object of what was found, for a test or a report to judge. A process of its own, as MLX joins ranks once.
With ``--memory SIZE`` the ranks page their experts.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

import gptoss_mlx
from gptoss_mlx.engine.batching import Batch, Produced, Row
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling
from tests.support.questions import prompt, replies

LENGTH = 700
"""Ids of the prompt whose logits are compared: two chunks, and more than the sliding window."""

QUESTIONS = range(8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ranks", type=int)
    parser.add_argument("--memory")
    options = parser.parse_args()
    begun = time.perf_counter()
    spread = gptoss_mlx.load("tiny", distributed=options.ranks, memory=options.memory, context=4096)
    seconds = time.perf_counter() - begun
    alone = gptoss_mlx.load("tiny", context=4096, slots=spread.plan.slots)
    print(json.dumps(compared(spread, alone) | {"start_seconds": seconds}))


def compared(spread: Runtime, alone: Runtime) -> dict[str, Any]:
    """Return what both say."""
    ids = np.random.default_rng(0).integers(0, alone.config.vocab_size, LENGTH).tolist()

    def same(do: Callable[[Runtime], Any]) -> bool:
        return do(spread) == do(alone)

    def difference(rows: list[list[int]]) -> float:
        return mx.max(mx.abs(spread.logits(rows) - alone.logits(rows))).item()  # type: ignore[return-value]

    one = replies(alone, QUESTIONS)
    return {
        "layers": len(spread.model.weights.layers),
        "paged": spread.model.weights.paged is not None,
        "difference": difference([ids]),
        "difference_of_two_rows": difference([ids[:90], ids[90:180]]),
        "replies": same(lambda runtime: replies(runtime, range(3))),
        "batch": replies(spread, QUESTIONS, rows=4) == one,
        "drawn": same(lambda runtime: list(runtime.generate(ids[:40], max_tokens=30, temperature=1.3, seed=7))),
        "removed": same(removed),
        "resumed": same(resumed),
        "prefixes_apart": spread.model_key != alone.model_key,
        "scores": same(lambda runtime: runtime.score(ids[:100], 2)),
    }


def removed(runtime: Runtime) -> list[tuple[Any, int]]:
    """Return what rows of a batch say, one of which is removed on the way, and another comes later."""
    batch: Batch = runtime.batch(3, None)

    def row(number: int) -> Row:
        sampling = Sampling(temperature=0.7, seed=number)
        return Row(number, prompt(runtime, number), runtime.context(), 24, sampling, frozenset(runtime.stop_ids))

    for number in range(3):
        batch.add(row(number))
    said = []
    for step in range(200):
        if step == 9:
            batch.remove(1)
            batch.add(row(5))
        said += [(out.id, out.token) for out in batch.step() if isinstance(out, Produced)]
        if not batch.busy:
            break
    return sorted(said, key=lambda one: one[0])


def resumed(runtime: Runtime) -> list[int]:
    """Return what follows prompts that begin like ones that were read: one goes on, one goes back, one returns."""
    sampling = Sampling(temperature=0)
    first = prompt(runtime, 1)
    context = runtime.context()
    said: list[int] = []

    def go_on(ids: list[int]) -> None:
        nonlocal context
        context = runtime.go_on(context, ids)
        said.append(context.resumed)
        said.extend(runtime.continuation(context, ids, head=20, max_tokens=12, sampling=sampling))

    go_on(first)
    go_on([*first, *said[1:], *prompt(runtime, 2)])
    go_on([*first[:30], *prompt(runtime, 4)])
    go_on([*first, *prompt(runtime, 3)])
    return said


if __name__ == "__main__":
    main()
