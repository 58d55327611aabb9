"""Anthropic's ``/v1/messages``: convert a body to a Request, and a Reply to a message.

Fields that gpt-oss has no use for are overlooked, because clients of this endpoint were made for other models. Fields
that would change the answer are refused.
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

from gptoss_mlx.harmony import ResponseFormat
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import BETWEEN, Call, Piece, Reply
from gptoss_mlx.requests.history import History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.offers import (
    CACHING,
    Choice,
    Form,
    Held,
    Offer,
    each_once,
    read_function,
    read_limit_of_thought,
)
from gptoss_mlx.requests.request import (
    Defaults,
    Request,
    call_key,
    read_called_name,
    read_effort,
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
    shown, effort, thought = _read_thinking(body)
    form, wanted = _read_output(body)
    held = Held(_read_tools(body), _read_choice(body), form, thought)
    limit = read_limit(body, "max_tokens")
    if limit is None and not counting:
        raise body.error("max_tokens", "is missing")
    request = Request(
        messages=history.finish(
            "messages",
            instructions=defaults.instructions,
            reasoning=wanted or effort or defaults.reasoning,
            date=defaults.date,
            functions=held.functions,
            response_format=held.response_format,
        ),
        sampling=read_sampling(body, defaults),
        max_tokens=limit,
        stop=_read_stop(body),
        held=held,
        grammar=held.grammar(notes),
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
    """Return the fields that say why ``reply`` ended. Of a reply that only repeated itself this API can say no more
    than that it was cut off."""
    reasons = {"stop": "end_turn", "length": "max_tokens", "repetition": "max_tokens", "tool_calls": "tool_use"}
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


def _read_tools(body: JsonObject) -> tuple[Offer, ...]:
    tools = []
    for tool in body.objects("tools") or []:
        kind = tool.text("type") or "custom"
        tool.skip("defer_loading", "eager_input_streaming", "input_examples", "allowed_callers")
        if kind == "custom":
            tools.append(read_function(tool, "input_schema"))
        elif not tool.note("type", f"is ignored: tools of the type {kind[:40]!r} are not offered to the model"):
            raise tool.error("type", "must be 'custom'")
    return each_once(tools)


def _read_choice(body: JsonObject) -> Choice:
    choice = body.object("tool_choice")
    if choice is None:
        return Choice()
    kind = choice.one_of("type", "auto", "any", "none", "tool")
    choice.skip("disable_parallel_tool_use")  # a reply never has two calls
    names = frozenset([choice.needed_text("name")]) if kind == "tool" else None
    choice.refuse_unread()
    if kind in ("any", "tool"):
        return Choice("required", names)
    return Choice("none" if kind == "none" else "auto")


def _read_output(body: JsonObject) -> tuple[Form | None, Effort | None]:
    """Read the form of the answer, in both places where it may stand, and the effort that stands beside it."""
    effort: Effort | None = None
    form = _read_form(body.object("output_format"))
    if config := body.object("output_config"):
        effort = read_effort(config, "effort")
        form = _read_form(config.object("format")) or form
        config.overlook_unread()
    return form, effort


def _read_form(format: JsonObject | None) -> Form | None:
    if format is None:
        return None
    format.one_of("type", "json_schema")
    form = Form(format.path("schema"), ResponseFormat("answer", format.schema("schema") or {}), exact=True)
    format.refuse_unread()
    return form


def _read_thinking(body: JsonObject) -> tuple[bool, Effort | None, int | None]:
    """Return whether thoughts are shown, how long to think, and the most tokens of it. The model cannot be kept from
    thinking."""
    thinking = body.object("thinking")
    if thinking is None:
        return False, None, None
    kind = thinking.one_of("type", "enabled", "disabled", "adaptive")
    if kind == "disabled":
        thinking.note("type", "is 'disabled'; the model thinks a little all the same, and its thoughts are not sent")
        return False, "low", None
    budget = read_limit_of_thought(thinking, "budget_tokens")
    thinking.overlook("display", "summarized", because="thoughts are sent as they are")
    thinking.overlook_unread()
    return True, None, budget


def _read_stop(body: JsonObject) -> tuple[str, ...]:
    stops = body.list("stop_sequences") or []
    if not all(isinstance(one, str) and one for one in stops) or len(stops) > MOST_STOPS:
        raise body.error("stop_sequences", f"must be up to {MOST_STOPS} strings, none empty")
    return tuple(stops)
