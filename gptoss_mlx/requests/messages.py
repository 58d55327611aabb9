"""Anthropic's ``/v1/messages``: convert a body to a Request, and a Reply to a message.

Fields that gpt-oss has no use for are overlooked, because clients of this endpoint were made for other models. Fields
that would change the answer are refused.
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Function
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import BETWEEN, Call, Piece, Reply
from gptoss_mlx.requests.history import History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.request import (
    CACHING,
    Defaults,
    Request,
    call_key,
    each_once,
    read_called_name,
    read_effort,
    read_function,
    read_limit,
    read_sampling,
)

MOST_STOPS = 64
"""Stop strings. Each is looked for at every token."""

SIGNATURE = "gptoss-mac"
"""Signs every thought. Clients send signatures back unread, and so do we ignore them."""

Block = dict[str, Any]


def read(raw: Any, defaults: Defaults, notes: list[str], *, counting: bool = False) -> Request:
    """Return the request in the body ``raw``. Raises RequestError. ``notes`` are as for JsonObject.

    With ``counting`` the prompt is only counted, so that no limit is needed.
    """
    body = JsonObject(raw, notes=notes)
    body.skip("metadata", "service_tier", "betas", "cache_control")
    body.only("mcp_servers", [])
    body.only("container")
    history = History(defaults.recall)
    if body.any("system") is not None:
        history.instruct(_read_text(body, "system"), "system")
    messages = body.objects("messages")
    if not messages:
        raise body.error("messages", "is missing" if messages is None else "is empty")
    for number, message in enumerate(messages):
        _read_message(message, f"messages[{number}]", history)
    functions = _read_tools(body)
    shown, effort = _read_thinking(body)
    limit = read_limit(body, "max_tokens")
    if limit is None and not counting:
        raise body.error("max_tokens", "is missing")
    request = Request(
        messages=history.finish(
            "messages",
            instructions=defaults.instructions,
            reasoning=effort or defaults.reasoning,
            date=defaults.date,
            functions=functions,
            response_format=None,
        ),
        sampling=read_sampling(body, defaults),
        max_tokens=limit,
        stop=_read_stop(body),
        functions=tuple(function.name for function in functions),
        stream=bool(body.flag("stream")),
        model=body.text("model"),
        thoughts="text" if shown else "hidden",
    )
    body.overlook_unread()
    return request


def write(reply: Reply, request: Request, *, id: str, model: str) -> dict[str, Any]:
    """Return the ``message`` object for ``reply``. All ids in it are made from ``id``."""
    parts = [part for part in reply.parts if request.thoughts != "hidden" or not _is_thought(part)]
    ids = (call_id(id, number) for number in count())
    content = [_block(part, ids) for part in parts]
    return begun(id, model) | write_end(reply) | {"content": content, "usage": write_usage(reply)}


def begun(id: str, model: str, prompt_tokens: int = 0) -> dict[str, Any]:
    """Return the ``message`` object before anything has come."""
    usage = {"input_tokens": prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    head = {"id": f"msg_{id}", "type": "message", "role": "assistant", "model": model, "content": []}
    return head | {"stop_reason": None, "stop_sequence": None, "usage": usage | {"output_tokens": 0}}


def write_end(reply: Reply) -> dict[str, Any]:
    """Return the fields that say why ``reply`` ended."""
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    reason = "stop_sequence" if reply.stopped_by is not None and not reply.calls else reasons[reply.reason]
    return {"stop_reason": reason, "stop_sequence": reply.stopped_by}


def write_usage(reply: Reply) -> dict[str, int]:
    """Return the ``usage`` object. Input tokens are only those that had to be read."""
    return {
        "input_tokens": reply.prompt_tokens - reply.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": reply.completion_tokens,
    }


def call_id(id: str, number: int) -> str:
    """Return the id of the ``number``th call of message ``id``."""
    return f"toolu_{call_key(id, 0, number)}"


def _block(part: Piece | Call, call_ids: Iterator[str]) -> Block:
    if isinstance(part, Call):
        try:
            given = json.loads(part.arguments)
        except (ValueError, RecursionError):
            given = part.arguments  # as the model wrote it
        return {"type": "tool_use", "id": next(call_ids), "name": part.name, "input": given}
    if part.section == "thought":
        return {"type": "thinking", "thinking": part.text, "signature": SIGNATURE}
    return {"type": "text", "text": part.text}


def _is_thought(part: Piece | Call) -> bool:
    return isinstance(part, Piece) and part.section == "thought"


def _read_message(message: JsonObject, where: str, history: History) -> None:
    role = message.needed_text("role")
    match role:
        case "system":
            history.instruct(_read_text(message, "content"), where)
        case "user":
            _read_user(message, where, history)
        case "assistant":
            _read_assistant(message, where, history)
        case _:
            raise message.error("role", f"is {role[:40]!r}; use user or assistant")
    message.overlook_unread()


def _read_user(message: JsonObject, where: str, history: History) -> None:
    """Add a user message: first the results in it, then its text."""
    texts = []
    for block in _blocks(message, "content"):
        kind = block.needed_text("type")
        if kind == "text":
            texts.append(block.needed_text("text"))
        elif kind == "tool_result":
            output = _read_text(block, "content") if block.any("content") is not None else ""
            failed = "Error: " if block.flag("is_error") else ""
            history.result(block.needed_text("tool_use_id"), failed + output, where)
        else:
            raise block.error("type", f"{kind[:40]!r} is not supported; send text only")
        block.skip(*CACHING, "citations")
        block.overlook_unread()
    if texts or not message.any("content"):
        history.user(BETWEEN.join(text for text in texts if text), where)


def _read_assistant(message: JsonObject, where: str, history: History) -> None:
    blocks = [(block.needed_text("type"), block) for block in _blocks(message, "content")]
    calls_at = [at for at, (kind, _) in enumerate(blocks) if kind == "tool_use"]
    texts: list[str] = []
    for at, (kind, block) in enumerate(blocks):
        if kind == "text":
            texts.append(block.needed_text("text"))
        elif kind == "thinking":
            history.thought(block.needed_text("thinking"))
            block.skip("signature")
        elif kind == "redacted_thinking":
            block.overlook("data", because="another program has encrypted it")
        elif kind == "tool_use":
            given = block.any("input")
            arguments = given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)
            block.skip("caller")
            history.called(block.needed_text("id"), read_called_name(block), arguments, where)
        else:
            raise block.error("type", f"{kind[:40]!r} is not supported")
        block.skip(*CACHING, "citations")
        block.overlook_unread()
        if texts and (at + 1 == len(blocks) or blocks[at + 1][0] != "text"):
            calls = any(later > at for later in calls_at)
            history.said(BETWEEN.join(text for text in texts if text), where, before_a_call=calls)
            texts = []


def _blocks(holder: JsonObject, field: str) -> "list[JsonObject]":
    """Return the blocks of a content. A string is one block."""
    value = holder.any(field)
    if isinstance(value, str):
        return [JsonObject({"type": "text", "text": value}, holder.path(field))]
    blocks = holder.objects(field)
    if blocks is None:
        raise holder.error(field, "is missing")
    return list(blocks)


def _read_text(holder: JsonObject, field: str) -> str:
    """Return the text of a content that has nothing else."""
    texts = []
    for block in _blocks(holder, field):
        kind = block.needed_text("type")
        if kind != "text":
            raise block.error("type", f"{kind[:40]!r} is not supported; send text only")
        texts.append(block.needed_text("text"))
        block.skip(*CACHING, "citations")
        block.overlook_unread()
    return BETWEEN.join(text for text in texts if text)


def _read_tools(body: JsonObject) -> tuple[Function, ...]:
    functions = []
    for tool in body.objects("tools") or []:
        kind = tool.text("type") or "custom"
        tool.skip("defer_loading", "eager_input_streaming", "input_examples", "allowed_callers")
        if kind == "custom":
            functions.append(read_function(tool, "input_schema"))
        elif not tool.note("type", f"is ignored: tools of the type {kind[:40]!r} are not offered to the model"):
            raise tool.error("type", "must be 'custom'")
    choice = body.object("tool_choice")
    if choice is None:
        return each_once(functions)
    kind = choice.needed_text("type")
    if kind not in ("auto", "none"):
        raise choice.error("type", f"is {kind[:40]!r}; use auto or none: a call cannot be forced")
    choice.skip("disable_parallel_tool_use")
    choice.refuse_unread()
    return () if kind == "none" else each_once(functions)


def _read_thinking(body: JsonObject) -> tuple[bool, Effort | None]:
    """Return whether thoughts are shown, and how long to think. The model cannot be kept from thinking."""
    effort: Effort | None = None
    if config := body.object("output_config"):
        effort = read_effort(config, "effort")
        if config.any("format") is not None:
            raise config.error("format", "cannot be enforced yet; ask for JSON in the prompt")
        config.overlook_unread()
    if body.any("output_format") is not None:
        raise RequestError("output_format cannot be enforced yet; ask for JSON in the prompt", "output_format")
    thinking = body.object("thinking")
    if thinking is None:
        return False, effort
    kind = thinking.one_of("type", "enabled", "disabled", "adaptive")
    if kind == "disabled":
        thinking.note("type", "is 'disabled'; the model thinks a little all the same, and its thoughts are not sent")
        return False, effort or "low"
    thinking.overlook("budget_tokens", because="the model thinks as long as its effort says")
    thinking.overlook("display", "summarized", because="thoughts are sent as they are")
    thinking.overlook_unread()
    return True, effort


def _read_stop(body: JsonObject) -> tuple[str, ...]:
    stops = body.list("stop_sequences") or []
    if not all(isinstance(one, str) and one for one in stops) or len(stops) > MOST_STOPS:
        raise body.error("stop_sequences", f"must be up to {MOST_STOPS} strings, none empty")
    return tuple(stops)
