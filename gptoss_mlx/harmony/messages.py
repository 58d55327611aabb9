"""The parts of a conversation: messages, and the contents of the system and developer messages.

Knows no tokenizer. A generated message carries its token ids, which this module does not interpret.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
Effort = Literal["low", "medium", "high"]


@dataclass(frozen=True)
class Function:
    """A tool a model may call. ``parameters`` is a JSON schema; None for a function that takes nothing. ``strict`` is
    not rendered: it asks who generates to hold a call's arguments to the schema if it is True, to JSON alone if False,
    and to as much of the schema as can be enforced if None."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True)
class Namespace:
    """Tools that belong together, called ``name.function``; without functions, ``name`` itself is called."""

    name: str
    description: str = ""
    functions: tuple[Function, ...] = ()


@dataclass(frozen=True)
class ResponseFormat:
    """A JSON schema that the prompt asks the answer to follow. ``grammars`` can enforce it, nothing here does."""

    name: str
    schema: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class System:
    """The system message's content. ``tools`` are the built-in tools the model was trained with.

    ``date`` is the day the conversation began. It must not change later, because the model would then have to read the
    whole conversation again.
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
    """One message. A tool's message has the tool's name as ``name``, a tool call as ``recipient``.

    ``constrained`` marks the content type with ``<|constrain|>``. ``ids`` are the ids of a generated message, from
    ``<|start|>`` on. ``render`` uses them as they are and ignores the other fields.
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
    """Return a tool call in the published form. ``arguments`` is JSON text, ``recipient`` e.g. ``functions.f``."""
    return Message(
        *("assistant", arguments),
        recipient=recipient,
        channel="commentary",
        content_type="json",
        constrained=True,
    )


def text_call(recipient: str, text: str) -> Message:
    """Return a call whose body is text, not JSON, in the form in which the model writes it under a grammar."""
    return Message("assistant", text, recipient=recipient, channel="commentary")


def tool_result(call: Message, output: str) -> Message:
    """Return the tool's answer to ``call``, on the same channel, so that ``drop_thoughts`` keeps or drops both."""
    return Message(
        *("tool", output),
        name=call.recipient,
        recipient="assistant",
        channel=call.channel or "commentary",
    )


def drop_thoughts(messages: Iterable[Message]) -> list[Message]:
    """Return the messages without the analysis messages before the last user message.

    Later analysis messages stay, because a model needs its thoughts until a tool turn is finished.
    """
    messages = list(messages)
    last_user = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    return [message for i, message in enumerate(messages) if i >= last_user or message.channel != "analysis"]
