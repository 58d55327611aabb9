"""Ask a converted small model questions it was never trained on: ``python -m tests.tiny.training.evaluate FOLDER``.

Questions go through ``Conversation`` at temperature 0, products through the real tool loop. The exit code is 1 if a
figure misses its goal. ``--replies`` writes every prompt and reply as ids, which the oracle answers again.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from gptoss_mlx.conversation import Conversation
from gptoss_mlx.events import Text, ToolCall
from gptoss_mlx.harmony import Message, render, reply_start, tool_result
from gptoss_mlx.runtime import Runtime, load
from gptoss_mlx.sampling import Sampling
from tests.tiny.training import phrases
from tests.tiny.training.arithmetic import answered_number, result
from tests.tiny.training.conversations import EFFORTS, Author, Setting

GOALS = {"sum": 0.97, "follow-up": 0.95, "product": 0.95, "sentence": 0.95}
"""The share of right answers that each kind must reach. The harder mix has no goal: it shows weaknesses."""


@dataclass(frozen=True)
class Case:
    """User messages in order, and the expected last answer: a number, or a whole sentence.

    ``tool`` returns a call's result for its arguments.
    """

    kind: str
    setting: Setting
    said: tuple[str, ...]
    expected: int | str
    tool: Callable[[dict[str, Any]], str] | None = None


def product(arguments: dict[str, Any]) -> str:
    """Return the result of a ``calculate`` call for a product."""
    a, b = str(arguments["expression"]).split("*")
    return str(int(a) * int(b))


def broken(arguments: dict[str, Any]) -> str:
    return "Error: the calculator is broken"


def cases(scale: float = 1.0) -> Iterator[Case]:
    """Yield 1,000 sums and differences up to three digits, 200 follow-ups, 200 products and 200 fixed sentences.

    200 sums and 100 follow-ups of training's harder mix come after them: two thirds are differences, a quarter have
    numbers close together. Training excludes these numbers and phrasings by hash; it does not exclude greetings and
    other talk. Efforts alternate. Half of the settings declare a function, all of them for products. ``scale``
    multiplies the counts.
    """
    ordinary = Author(Random("evaluation: settings"))
    held_out = Author(Random("evaluation"), held_out=True, hard=False)

    def sums(author: Author, n: int, kind: str) -> Iterator[Case]:
        for i in range(round(n * scale)):
            text, a, op, b = author.sum_question(four=0.0)
            setting = ordinary.setting(EFFORTS[i % 3], calculate=i % 2 == 0)
            yield Case(kind, setting, (text,), result(a, op, b))

    def follow_ups(author: Author, n: int, kind: str) -> Iterator[Case]:
        for i in range(round(n * scale)):
            text, a, op, b = author.sum_question(four=0.0)
            then, before, then_op, more = author.then_question(result(a, op, b), four=0.0)
            setting = ordinary.setting(EFFORTS[i % 3], calculate=i % 2 == 0)
            yield Case(kind, setting, (text, then), result(before, then_op, more))

    yield from sums(held_out, 1000, "sum")
    yield from follow_ups(held_out, 200, "follow-up")
    for i in range(round(200 * scale)):
        text, a, b = held_out.product_question()
        setting = ordinary.setting(EFFORTS[i % 3], calculate=True)
        yield Case("product", setting, (text,), a * b, product)
    for i in range(round(50 * scale)):
        effort = EFFORTS[i % 3]
        without = ordinary.setting(effort, calculate=False)
        with_function = ordinary.setting(effort, calculate=True)
        text, a, b = held_out.product_question()
        yield Case("sentence", without, (text,), phrases.CANNOT_MULTIPLY)
        yield Case("sentence", with_function, (text,), phrases.TOOL_FAILED.format(a=a, b=b), broken)
        yield Case("sentence", without, (held_out.said(phrases.OTHER_ASKED),), phrases.CANNOT)
        yield Case("sentence", with_function, (held_out.said(phrases.HELLO_ASKED),), phrases.HELLO)
    hard = Author(Random("evaluation: hard"), held_out=True)
    yield from sums(hard, 200, "hard sum")
    yield from follow_ups(hard, 100, "hard follow-up")


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share."""
    z = 1.959964
    p = right / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def ask(runtime: Runtime, case: Case) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of the last answer, and every prompt with its reply, as ids."""
    setting = case.setting
    conversation = Conversation(
        runtime,
        reasoning=setting.effort,
        date=setting.date or "",
        instructions=setting.instructions,
        functions=setting.functions,
        sampling=Sampling(temperature=0.0),
        max_tokens=200,
    )
    answer = ""
    exchanges = []
    for said in case.said:
        waiting = Message("user", said)
        events = conversation.send(said)
        while True:
            answer = ""
            call = None
            before = [*conversation.messages]
            for event in events:
                if isinstance(event, Text):
                    answer += event.text
                elif isinstance(event, ToolCall):
                    call = event
            prompt = render([*setting.head(), *before, waiting], runtime.tokenizer)
            written = [id for message in conversation.messages[len(before) + 1 :] for id in message.ids or ()]
            reply = written[len(reply_start(runtime.tokenizer)) :]
            if call is None:  # a history ends it in <|end|>
                reply[-1] = runtime.tokenizer.special["<|return|>"]
            exchanges.append({"kind": case.kind, "prompt": prompt, "reply": reply})
            if call is None or case.tool is None:
                break
            output = case.tool(call.arguments)
            waiting = tool_result(call.message, output)
            events = conversation.send_tool_result(call, output)
    return answer, exchanges


_RUNTIME: list[Runtime] = []
"""The runtime of this worker process."""


def _open(folder: Path) -> None:
    _RUNTIME.append(load(folder))


def _ask(case: Case) -> tuple[str, list[dict[str, Any]]]:
    return ask(_RUNTIME[0], case)


def right(case: Case, answer: str) -> bool:
    return answer == case.expected if isinstance(case.expected, str) else answered_number(answer) == case.expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--replies", type=Path, help="write prompts and replies here, a JSON line each")
    parser.add_argument("--scale", type=float, default=1.0, help="ask fewer of each kind")
    args = parser.parse_args()
    found: dict[str, list[bool]] = {}
    exchanges: list[dict[str, Any]] = []
    # One process for each core, because so small a model keeps only one core busy.
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=_open, initargs=(args.folder,)) as workers:
        for case, (answer, kept) in zip(
            cases(args.scale), workers.map(_ask, cases(args.scale), chunksize=10), strict=True
        ):
            good = right(case, answer)
            kept[-1] |= {"expected": case.expected, "right": good}
            exchanges += kept
            found.setdefault(case.kind, []).append(good)
            if not good:
                print(f"  {case.setting.effort}: {' | '.join(case.said)} -> {answer!r}", flush=True)
    if args.replies:
        args.replies.write_text("".join(json.dumps(exchange) + "\n" for exchange in exchanges))
    missed = False
    for kind, outcomes in found.items():
        share = sum(outcomes) / len(outcomes)
        low, high = wilson(sum(outcomes), len(outcomes))
        goal = GOALS.get(kind)
        missed |= goal is not None and share < goal
        interval = f"95% interval {low:.1%} to {high:.1%}"
        aim = "no goal" if goal is None else f"goal {goal:.0%}"
        print(f"{kind:14} {share:6.1%} of n = {len(outcomes)}, {interval}, {aim}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
