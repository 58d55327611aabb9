"""What a conversation is made of: messages, and the contents of the system and the developer message.

Knows no token ids, save those a generated message carries along.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class Function:
    """A tool a model may call. ``parameters`` is a JSON schema; None for a function that takes nothing."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Namespace:
    """Tools that belong together, called ``name.function``; without functions, ``name`` itself is called."""

    name: str
    description: str = ""
    functions: tuple[Function, ...] = ()


@dataclass(frozen=True)
class ResponseFormat:
    """A JSON schema the answer is asked to follow. Only asked: nothing here enforces it."""

    name: str
    schema: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class System:
    """The system message's content. ``date`` stays what it was when the conversation began, or the whole
    conversation would have to be read anew at midnight. ``tools`` are those the model was trained with.
    """

    reasoning: Effort | None = "medium"
    date: str | None = None
    identity: str | None = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str | None = "2024-06"
    tools: tuple[Namespace, ...] = ()
    channels: tuple[str, ...] = ("analysis", "commentary", "final")


@dataclass(frozen=True)
class Developer:
    """The developer message's content: what APIs call the system prompt, and the functions on offer."""

    instructions: str | None = None
    functions: tuple[Function, ...] = ()
    response_format: ResponseFormat | None = None


@dataclass(frozen=True)
class Message:
    """One message. A tool's has the tool's name; a tool call has the tool as ``recipient``.

    ``constrained`` marks the content type with ``<|constrain|>``. ``ids`` are those of the whole message, from
    ``<|start|>`` on, when a model generated it: they are its rendering, whatever the other fields say.
    """

    role: Role
    content: str | System | Developer
    name: str | None = None
    recipient: str | None = None
    channel: str | None = None
    content_type: str | None = None
    constrained: bool = False
    ids: tuple[int, ...] | None = None


def tool_call(recipient: str, arguments: str) -> Message:
    """A call as the published template writes one. ``arguments`` is JSON text, ``recipient`` e.g. ``functions.f``."""
    return Message(
        *("assistant", arguments),
        recipient=recipient,
        channel="commentary",
        content_type="json",
        constrained=True,
    )


def tool_result(call: Message, output: str) -> Message:
    """What the called tool answers, on the channel of the call: both are kept, or dropped, together."""
    return Message(
        *("tool", output),
        name=call.recipient,
        recipient="assistant",
        channel=call.channel or "commentary",
    )


def drop_thoughts(messages: Iterable[Message]) -> list[Message]:
    """Without the analysis messages that lie before the last user message.

    Those after it stay: a model in the middle of a tool turn needs what it thought.
    """
    messages = list(messages)
    last_user = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    return [message for i, message in enumerate(messages) if i >= last_user or message.channel != "analysis"]
