"""Sums that the bundled model is asked, and its replies one by one or beside each other."""

import re
from collections.abc import Iterable

from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.harmony import Message, System, render
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling

GREEDY = Sampling(temperature=0)
FILLER = "Please be brief. "


def terms(number: int) -> tuple[int, int]:
    return 100 + 37 * number % 800, 211 + 13 * number % 700


def prompt(runtime: Runtime, number: int) -> list[int]:
    """Return the ids of a question. Every third is longer than the sliding window."""
    a, b = terms(number)
    question = Message("user", f"{FILLER * (number % 3 // 2 * 11)}What is {a} + {b}?")
    return render([Message("system", System("medium", "2025-06-28")), question], runtime.tokenizer)


def replies(runtime: Runtime, numbers: Iterable[int], rows: int = 1, most: int = 200) -> dict[int, list[int]]:
    """Return the greedy replies to questions, of which so many are asked at a time."""
    stop = runtime.stop_ids
    if rows == 1:
        options = {"max_tokens": most, "sampling": GREEDY, "stop": stop}
        return {n: list(generate(runtime.context(), prompt(runtime, n), **options)) for n in numbers}
    batch = Batch(runtime.model, max_rows=rows)
    said: dict[int, list[int]] = {}
    for number in numbers:
        batch.add(Row(number, prompt(runtime, number), runtime.context(), most, GREEDY, stop))
        said[number] = []
    while batch.busy:
        for one in batch.step():
            assert not isinstance(one, Failed), one.problem
            said[one.id].append(one.token)
    return said


def is_right(runtime: Runtime, number: int, reply: list[int]) -> bool:
    """Return whether the reply ends with the sum."""
    numbers = re.findall(r"\d+", runtime.tokenizer.decode(reply).replace(",", ""))
    return bool(numbers) and int(numbers[-1]) == sum(terms(number))
