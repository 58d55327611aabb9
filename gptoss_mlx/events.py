"""What happens while a reply is generated, as ``Conversation.send`` tells it. Knows nothing of how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gptoss_mlx.harmony import Message
from gptoss_mlx.usage import Usage

DoneReason = Literal["stop", "tool_calls", "length", "repetition", "cancelled", "tool_limit"]
"""How a reply ended. See Done."""


@dataclass(frozen=True)
class Thought:
    """More of the chain of thought."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the answer, or of what is said to the user before a tool is called. The texts of a reply add up to it."""

    text: str


@dataclass(frozen=True, eq=False)
class ToolCall:
    """The model calls a declared function, which ``Conversation.send_tool_result`` answers, or a tool, whose ToolResult
    follows unless the reply also calls a declared function. A reply may make several. ``arguments`` follow the
    function's schema as far as it can be enforced. ``message`` is the call in the history."""

    name: str
    arguments: dict[str, Any]
    message: Message


@dataclass(frozen=True)
class ToolResult:
    """What the model was told of its call of a tool, and whether the call ``failed``."""

    name: str
    output: str
    failed: bool


@dataclass(frozen=True)
class ToolError:
    """The model made a call that cannot be made. It was told ``problem`` and continues."""

    name: str
    problem: str


@dataclass(frozen=True)
class Done:
    """The last event of a reply. ``reason`` says how it ended: "stop" by the model, "tool_calls" with calls that wait
    for results, "length" by a limit or the end of the context, "repetition" because it only repeated itself,
    "cancelled", or "tool_limit" after too many calls without an answer.

    ``cut_in_thought``: generation stopped before any answer began, and a thought is no answer. ``context_full``: the
    context has no room for more, although no limit of the caller's was reached. ``no_answer``: the model ended its
    reply without saying anything. ``invalid`` is what is wrong with an answer that has ended under a ``schema``, and no
    grammar sees: a property that came twice. ``repairs`` counts, by kind, what was guessed or left out while reading.
    """

    reason: DoneReason
    usage: Usage
    cut_in_thought: bool = False
    context_full: bool = False
    no_answer: bool = False
    invalid: str | None = None
    repairs: Mapping[str, int] = field(default_factory=dict)


ReplyEvent = Thought | Text | ToolCall | ToolResult | ToolError | Done
