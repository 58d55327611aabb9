"""Harmony as a grammar: what a model may write after ``<|start|>assistant``, header by header.

Thoughts and what is said before a call are free text. The headers are well formed, a call goes only to a tool that was
offered, and only the body of the answer or of a call is under a grammar of its own. So no control token is ever in the
way of a schema, and no schema in the way of a thought. Knows no message.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gptoss_mlx.errors import GrammarError
from gptoss_mlx.grammars.grammar import Grammar
from gptoss_mlx.grammars.json_schema import from_schema, json_object
from gptoss_mlx.harmony import Function

Choice = Literal["none", "auto", "required"]
"""Whether a reply may end in a call, or must."""

FREE = "TEXT"
_NEXT = '<|end|> <|start|> "assistant"'


@dataclass(frozen=True)
class Tool:
    """What may be called: by which recipient, in which channels, and with which body. ``body`` None is free text.
    ``content_type`` stands behind ``<|constrain|>`` where the body is JSON, else it is plain, or absent."""

    recipient: str
    body: Grammar | None = None
    channels: tuple[str, ...] = ("commentary",)
    content_type: str | None = "json"


def function(declared: Function) -> Tool:
    """Return the tool that a declared function is. Raises GrammarError for a strict one that cannot be enforced."""
    return Tool(f"functions.{declared.name}", _arguments(declared))


def _arguments(declared: Function) -> Grammar:
    if declared.strict is False:
        return json_object()
    schema = {"type": "object", "maxProperties": 0} if declared.parameters is None else declared.parameters
    if declared.strict:
        return from_schema(schema)
    try:
        return from_schema(schema, lenient=True)
    except GrammarError as error:
        return replace(json_object(), warnings=(f"{error}; any JSON object is taken",))


PYTHON = Tool("python", None, ("analysis", "commentary"), "code")
"""The built-in tool that models were trained with."""


def reply(answer: Grammar | None = None, tools: Sequence[Tool] = (), choice: Choice = "auto") -> Grammar:
    """Return the grammar of a reply. ``answer`` None is free text. Where it is not, nothing is said before it. Raises
    ValueError if a call must be made and no tool is offered."""
    offered = list(tools) if choice != "none" else []
    must = choice == "required"
    if must and not offered:
        raise ValueError("a call must be made, but no tool is offered")
    parts: list[tuple[str, str]] = []
    ways = []
    if not must:
        ways.append("thought* answer" if answer or not offered else "(thought | preamble)* answer")
    if offered:
        ways.append("(thought | preamble)* call")
    lines = [
        "%llguidance {}",
        f"start: {' | '.join(ways)}",
        f'thought: <|channel|> "analysis" <|message|> {FREE} {_NEXT}',
    ]
    if offered:
        lines.append(f'preamble: <|channel|> "commentary" <|message|> {FREE} {_NEXT}')
        lines.append(f"call: {' | '.join(f'call{n}' for n in range(len(offered)))}")
    if not must:
        lines.append(f'answer: <|channel|> "final" <|message|> {_body("answer", answer, parts)}')
    for number, tool in enumerate(offered):
        heads = [head for channel in tool.channels for head in _heads(tool, channel)]
        body = _body(f"body{number}", tool.body, parts)
        lines.append(f"call{number}: ({' | '.join(heads)}) <|message|> {body} <|call|>")
    lines.append(f"{FREE}: /(?s:.*)/")
    warnings = [one for part in (answer, *(tool.body for tool in offered)) if part for one in part.warnings]
    return Grammar("\n".join(lines) + "\n", tuple(warnings), tuple(parts))


def _body(name: str, grammar: Grammar | None, parts: list[tuple[str, str]]) -> str:
    """Return how a rule refers to a body, and add its grammar to ``parts`` unless it is there."""
    if grammar is None:
        return FREE
    there = next((known for known, text in parts if text == grammar.lark), None)
    if there is None:
        parts.append((name, grammar.lark))
    return f"@{there or name}"


def _heads(tool: Tool, channel: str) -> list[str]:
    """Return the header of a call up to ``<|message|>``, in both orders in which models write it."""
    kind = ""
    if tool.content_type is not None:
        marker = "<|constrain|> " if tool.body is not None else ""
        kind = f'" " {marker}{json.dumps(tool.content_type)}' if marker else json.dumps(f" {tool.content_type}")
    to = json.dumps(f" to={tool.recipient}")
    after = json.dumps(f"{channel} to={tool.recipient}")
    return [f"<|channel|> {after} {kind}", f"{to} <|channel|> {json.dumps(channel)} {kind}"]
