"""``make chat`` without a terminal: hold a short conversation with the bundled model, show it, and check the answers.

Run as ``python -m tests.cli.scripted_chat``; exits with 1 when an answer is wrong. It imports only what a user's own
installation has.
"""

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gptoss_mlx.cli.signals import ended_by_signals

if TYPE_CHECKING:
    from rich.console import Console

    from gptoss_mlx.cli.display import ReplyView
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.events import ReplyEvent

CALCULATE = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Evaluates an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "The expression, such as 12*34."}},
            "required": ["expression"],
        },
    },
}


def multiply(expression: str) -> str:
    """Return the product of two whole numbers as text, or an error text for any other expression."""
    factors = re.fullmatch(r"\s*(\d{1,9})\s*\*\s*(\d{1,9})\s*", expression)
    return str(int(factors[1]) * int(factors[2])) if factors else "Error: only products are known here"


def play(conversation: "Conversation", console: "Console", said: str) -> str:
    """Send ``said``, show the reply, run the tool the model calls, and return the answer's text."""
    from gptoss_mlx.cli.display import ReplyView
    from gptoss_mlx.events import Text, ToolCall

    console.print(f"\n> {said}", markup=False, highlight=False)
    answer = ""
    events = conversation.send(said)
    while True:
        call = None
        with ReplyView(console) as view:
            for event in _shown(events, view):
                answer += event.text if isinstance(event, Text) else ""
                call = event if isinstance(event, ToolCall) else call
        if call is None:
            return answer
        events = conversation.send_tool_result(call, multiply(str(call.arguments.get("expression"))))


def _shown(events: "Iterator[ReplyEvent]", view: "ReplyView") -> "Iterator[ReplyEvent]":
    for event in events:
        view.show(event)
        yield event


def main() -> None:
    from rich.console import Console

    import gptoss_mlx
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.sampling import Sampling

    runtime = gptoss_mlx.load("tiny")
    console = Console(highlight=False)
    greedy = Sampling(temperature=0)
    thorough = Conversation(runtime, reasoning="high", sampling=greedy, max_tokens=500)
    quick = Conversation(runtime, reasoning="low", sampling=greedy, max_tokens=500)
    calling = Conversation(runtime, functions=[CALCULATE], sampling=greedy, max_tokens=500)
    wrong = 0
    for conversation, said, expected in (
        (thorough, "What is 347 + 58?", 405),
        (thorough, "and plus 10?", 415),
        (quick, "What is 62 - 17?", 45),
        (calling, "What is 12 * 34?", 408),
    ):
        answer = play(conversation, console, said)
        if str(expected) not in re.findall(r"-?\d+", answer.replace(",", "")):
            console.print(f"wrong: expected {expected}", style="red")
            wrong += 1
    console.print(f"\n{wrong} of 4 answers wrong" if wrong else "\nall 4 answers right")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    ended_by_signals(main)
