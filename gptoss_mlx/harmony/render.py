"""Render messages as token ids. Markers are written as ids. Text is encoded separately and never becomes a marker."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import pairwise

from gptoss_mlx.errors import ContextLengthError, HarmonyError
from gptoss_mlx.harmony.json_text import json_text
from gptoss_mlx.harmony.messages import Developer, Message, Namespace, System, drop_thoughts
from gptoss_mlx.harmony.signatures import comment, tools_section
from gptoss_mlx.harmony.tokenizer import Tokenizer

FAR_OVER_LIMIT = 2
"""A prompt of more than this times the limit is refused before all of it is encoded."""
CHARACTERS_PER_ID = 8
"""A text of at most this many characters per id of the limit is encoded at once; a longer one is first counted."""
PIECE_CHARACTERS = 1 << 14
"""Characters encoded at a time to count a long text."""


def render(messages: Iterable[Message], tokenizer: Tokenizer, *, limit: int | None = None) -> list[int]:
    """Return the prompt for the assistant's next message: the conversation, then ``<|start|>assistant``.

    Thoughts of finished turns are left out (``drop_thoughts``). Raises HarmonyError when a message lacks a name or
    its content does not fit its role. Raises ContextLengthError for a prompt far longer than ``limit`` ids, before all
    of it is encoded. A prompt slightly longer than ``limit`` is returned, because the engine refuses it.
    """
    messages = list(messages)
    there = {id(message) for message in drop_thoughts(messages)}
    kept = without(messages, [message for message in messages if id(message) not in there], tokenizer)
    return [*render_messages(kept, tokenizer, limit=limit), *reply_start(tokenizer)]


def without(messages: Iterable[Message], removed: Collection[Message], tokenizer: Tokenizer) -> list[Message]:
    """Return messages without those ``removed``. One that the model began in a removed one, without ``<|start|>``,
    loses its generated ids, so that it is rendered again."""
    gone = {id(message) for message in removed}
    start = tokenizer.special["<|start|>"]
    return [
        replace(message, ids=None) if id(before) in gone and message.ids and message.ids[0] != start else message
        for before, message in pairwise((None, *messages))
        if message is not None and id(message) not in gone
    ]


def reply_start(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of ``<|start|>assistant``: the end of a prompt, and the beginning of the generated message."""
    return [tokenizer.special["<|start|>"], *tokenizer.encode("assistant")]


def render_messages(messages: Iterable[Message], tokenizer: Tokenizer, *, limit: int | None = None) -> list[int]:
    """Return the ids of these messages. No thought is dropped, and no reply is begun. Raises what ``render`` raises."""
    messages = list(messages)
    has_functions = any(isinstance(message.content, Developer) and message.content.functions for message in messages)
    ids: list[int] = []
    for i, message in enumerate(messages):
        if message.ids and message.ids[0] != tokenizer.special["<|start|>"] and (i == 0 or messages[i - 1].ids is None):
            # The model wrote it directly after a message without an end. That message has been dropped.
            ids += reply_start(tokenizer)
        ids += message.ids if message.ids is not None else _message(message, tokenizer, has_functions, limit)
        last = i + 1 == len(messages) or messages[i + 1].ids is None
        if (
            last
            and message.ids
            and message.ids[-1] not in (tokenizer.special["<|end|>"], tokenizer.special["<|call|>"])
        ):
            # The model wrote the next message without ending this one. That message has been dropped.
            ids.append(_closing(message, tokenizer))
        if limit is not None and len(ids) > FAR_OVER_LIMIT * limit:
            raise _too_long(f"more than {len(ids) - 1:,}", limit)
    return ids


def _message(message: Message, tokenizer: Tokenizer, has_functions: bool, limit: int | None) -> list[int]:
    """Return the ids of ``<|start|>role to=RECIPIENT<|channel|>CHANNEL <|constrain|>TYPE<|message|>text<|end|>``."""
    special = tokenizer.special
    encode = tokenizer.encode
    recipient = None if message.recipient == "all" else message.recipient
    ids = [special["<|start|>"], *encode(_author(message))]
    if recipient:
        ids += encode(f" to={recipient}")
    if message.channel:
        ids += [special["<|channel|>"], *encode(message.channel)]
    if message.content_type and message.constrained:
        ids += [*encode(" "), special["<|constrain|>"], *encode(message.content_type)]
    elif message.content_type:
        ids += encode(f" {message.content_type}")
    text = _content(message, has_functions)
    if limit is not None:
        _check_length(text, tokenizer, limit)
    return [*ids, special["<|message|>"], *encode(text), _closing(message, tokenizer)]


def _closing(message: Message, tokenizer: Tokenizer) -> int:
    call = message.role == "assistant" and message.recipient not in (None, "", "all")
    return tokenizer.special["<|call|>" if call else "<|end|>"]


def _check_length(text: str, tokenizer: Tokenizer, limit: int) -> None:
    """Raise ContextLengthError for a text of far more than ``limit`` ids, after encoding little more than those.

    The text is encoded in pieces. Cutting it gives a few extra ids, but never FAR_OVER_LIMIT times as many.
    """
    if len(text) <= CHARACTERS_PER_ID * limit:
        return
    count = 0
    for start in range(0, len(text), PIECE_CHARACTERS):
        count += len(tokenizer.encode(text[start : start + PIECE_CHARACTERS]))
        if count > FAR_OVER_LIMIT * limit:
            raise _too_long(f"about {count * len(text) // min(start + PIECE_CHARACTERS, len(text)):,}", limit)


def _too_long(count: str, limit: int) -> ContextLengthError:
    return ContextLengthError(
        f"the prompt has {count} tokens and the model's context holds {limit:,}; shorten it, "
        "or begin a new conversation"
    )


def _author(message: Message) -> str:
    if message.role != "tool":
        return f"{message.role}:{message.name}" if message.name else message.role
    if not message.name:
        raise HarmonyError("a tool's message needs the tool's name")
    return message.name


def _content(message: Message, has_functions: bool) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if isinstance(content, System) and message.role == "system":
        return _system(content, has_functions)
    if isinstance(content, Developer) and message.role == "developer":
        return _developer(content)
    raise HarmonyError(f"a message of role '{message.role}' cannot hold {type(content).__name__}")


def _system(system: System, has_functions: bool) -> str:
    top = (
        system.identity,
        system.knowledge_cutoff and f"Knowledge cutoff: {system.knowledge_cutoff}",
        system.date and f"Current date: {system.date}",
    )
    sections = ["\n".join(line for line in top if line)]
    if system.reasoning:
        sections.append(f"Reasoning: {system.reasoning}")
    if system.tools:
        sections.append(tools_section(system.tools))
    if system.channels:
        channels = f"# Valid channels: {', '.join(system.channels)}. Channel must be included for every message."
        if has_functions:
            channels += "\nCalls to these tools must go to the commentary channel: 'functions'."
        sections.append(channels)
    return "\n\n".join(section for section in sections if section)


def _developer(developer: Developer) -> str:
    sections = []
    if developer.instructions is not None:
        sections.append(f"# Instructions\n\n{developer.instructions}")
    if developer.functions:
        sections.append(tools_section([Namespace("functions", functions=developer.functions)]))
    if form := developer.response_format:
        try:
            schema = json_text(form.schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise HarmonyError(f"response format {form.name!r}: its schema is no JSON ({error})") from error
        description = "".join(comment(form.description)) if form.description else ""
        sections.append(f"# Response Formats\n\n## {form.name}\n\n{description}{schema}")
    return "\n\n".join(sections)
