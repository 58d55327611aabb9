"""OpenAI's ``/v1/chat/completions``: convert a body to a Request, and a Reply to a body.

Fields that would change the answer but are not supported are refused, never ignored. A JSON schema becomes part of the
prompt, as in the model's training, and the answer is held to it.
"""

from collections.abc import Mapping
from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import Call, Reply
from gptoss_mlx.requests.history import History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.offers import (
    CACHING,
    Form,
    Held,
    Offer,
    each_once,
    read_choice,
    read_custom,
    read_function,
    read_limit_of_thought,
    read_schema,
)
from gptoss_mlx.requests.request import (
    WITHOUT_EFFECT,
    Defaults,
    Request,
    call_key,
    needed_parts,
    read_adjusted,
    read_called_name,
    read_content,
    read_effort,
    read_likeliest,
    read_limit,
    read_sampling,
    read_stop,
)

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
    "moderation": (),
}
"""Unsupported fields. Each is accepted with the listed values, because they ask for nothing."""

MAX_N = 16
"""Replies to one request. OpenAI's limit is 128, which no Mac should be asked for at once."""

THOUGHTS = ("reasoning", "reasoning_content", "thinking")
"""Fields in which other clients send and expect a message's thought. The published chat template uses the last."""

TEXT_PARTS = {"text": "text"}
"""The type of part that a message may have, and its field with the text."""


def read(raw: Any, defaults: Defaults, *, unknown_fields: bool = False, notes: list[str] | None = None) -> Request:
    """Return the request in the body ``raw``. Raises RequestError.

    With ``unknown_fields`` unknown fields are ignored and named in the request, because data sets have other columns.
    ``notes`` are as for JsonObject.
    """
    body = JsonObject(raw, notes=notes)
    for name, harmless in NOT_OFFERED.items():
        body.only(name, *harmless)
    body.skip(*WITHOUT_EFFECT)
    body.overlook("verbosity", "medium")
    messages = body.objects("messages")
    if not messages:
        raise body.error("messages", "is missing" if messages is None else "is empty")
    history = History(defaults.recall)
    for number, message in enumerate(messages):
        _read_message(message, f"messages[{number}]", history)
    effort, thought = _read_reasoning(body)
    form = _read_format(body.object("response_format")) or defaults.form
    thought = defaults.thought if thought is None else thought
    held = Held(_read_tools(body), read_choice(body), form, thought)
    limit = read_limit(body, "max_completion_tokens", "max_tokens")
    request = Request(
        messages=history.finish(
            "messages",
            instructions=defaults.instructions,
            reasoning=effort or defaults.reasoning,
            date=defaults.date,
            functions=held.functions,
            response_format=held.response_format,
        ),
        sampling=read_adjusted(body, read_sampling(body, defaults)),
        likeliest=read_likeliest(body, bool(body.flag("logprobs"))),
        max_tokens=limit or defaults.max_tokens,
        stop=read_stop(body),
        held=held,
        grammar=held.grammar(notes),
        stream=bool(body.flag("stream")),
        model=body.text("model"),
        unknown=body.unread(),
        n=_read_n(body),
        stream_usage=_read_stream_usage(body),
    )
    if not unknown_fields:
        body.refuse_unread()
    return request


def write(
    *replies: Reply,
    id: str,
    created: int,
    model: str,
    thought: bool,
    logprobs: Mapping[int, list[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Return the ``chat.completion`` object with ``replies`` as its choices.

    All ids in it are made from ``id``. ``created`` is in Unix seconds. With ``thought`` the message has the thought as
    ``reasoning`` and ``reasoning_content``, the fields that other servers use; OpenAI has no field for it. ``logprobs``
    has what is said of the tokens of each reply.
    """
    return {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(reply, id, index, thought),
                "logprobs": None if logprobs is None else write_logprobs(logprobs.get(index, [])),
                "finish_reason": reply.reason,
            }
            for index, reply in enumerate(replies)
        ],
        "usage": write_usage(*replies),
    }


def write_logprobs(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the ``logprobs`` of a choice."""
    return {"content": entries, "refusal": None}


def write_usage(*replies: Reply) -> dict[str, Any]:
    """Return the ``usage`` of several replies to one prompt, which counts once."""
    prompt, cached = replies[0].prompt_tokens, replies[0].cached_tokens
    completion = sum(reply.completion_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(reply.thought_tokens for reply in replies)},
    }


def call_id(id: str, index: int, number: int) -> str:
    """Return the id of the ``number``th call in the choice ``index``."""
    return f"call_{call_key(id, index, number)}"


def _message(reply: Reply, id: str, index: int, thought: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content or None, "refusal": None}
    if thought:
        message |= {"reasoning": reply.thought, "reasoning_content": reply.thought}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call_id(id, index, number)} | _call(call) for number, call in enumerate(reply.calls)
        ]
    return message


def _call(call: Call) -> dict[str, Any]:
    if call.custom:
        return {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _read_message(message: JsonObject, where: str, history: History) -> None:
    role = message.needed_text("role")
    match role:
        case "system" | "developer":
            history.instruct(needed_parts(message, "content", TEXT_PARTS), where)
        case "user":
            history.user(needed_parts(message, "content", TEXT_PARTS), where)
        case "assistant":
            _read_assistant(message, where, history)
        case "tool":
            id = message.needed_text("tool_call_id")
            history.result(id, needed_parts(message, "content", TEXT_PARTS), where, message.text("name"))
        case _:
            raise message.error("role", f"is {role[:40]!r}; use system, developer, user, assistant or tool")
    message.skip(*CACHING)
    message.only("images")
    message.overlook_unread()


def _read_assistant(message: JsonObject, where: str, history: History) -> None:
    """Add an assistant message to ``history``. It may be empty, or a thought alone if the reply was stopped there."""
    for name in ("function_call", "audio"):
        message.only(name)
    message.only("annotations", [])
    calls = message.list("tool_calls") or []
    parts = read_content(message, "content", {"text": "text", "refusal": "refusal", "thinking": "thinking"}) or []
    refusal = message.text("refusal") or ""
    text = "".join(text for kind, text in parts if kind != "thinking")
    if text and refusal:
        raise message.error("refusal", "stands beside content; send only one of them")
    text = text or refusal
    thoughts = [message.text(name) for name in THOUGHTS]
    thoughts.append("".join(text for kind, text in parts if kind == "thinking"))
    given = {thought for thought in thoughts if thought}
    if len(given) > 1:
        names = ", ".join(THOUGHTS)
        raise RequestError(f"{where} has different thoughts in {names} or in its parts; send only one", where)
    history.thought("".join(given))
    history.said(text, where, before_a_call=bool(calls))
    for number, raw in enumerate(calls):
        call = JsonObject(raw, f"{where}.tool_calls[{number}]")
        kind = call.one_of("type", "function", "custom") or "function"
        called = call.object(kind)
        if called is None:
            raise call.error(kind, "is missing")
        custom = kind == "custom"
        arguments = called.text("input" if custom else "arguments") or ""
        history.called(call.needed_text("id"), read_called_name(called), arguments, where, custom=custom)
        called.refuse_unread()
        call.only("index", number)  # streamed calls have it
        call.refuse_unread()


def _read_reasoning(body: JsonObject) -> tuple[Effort | None, int | None]:
    """Read how long to think, in each place where a client may say it, and the most tokens of it. Raises RequestError
    if two differ."""
    places = [(body, "reasoning_effort")]
    thought = None
    if reasoning := body.object("reasoning"):
        thought = read_limit_of_thought(reasoning, "max_tokens")
        reasoning.skip("summary", "exclude", "enabled")
        places.append((reasoning, "effort"))
    if template := body.object("chat_template_kwargs"):
        places.append((template, "reasoning_effort"))
    given = {effort: holder.path(name) for holder, name in places if (effort := read_effort(holder, name))}
    for holder, _ in places[1:]:
        holder.refuse_unread()
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given.values())} differ; send only one", next(iter(given.values())))
    return next(iter(given), None), thought


def _read_n(body: JsonObject) -> int:
    n = body.integer("n")
    if n is not None and not 1 <= n <= MAX_N:
        raise body.error("n", f"is {n}; it must be from 1 to {MAX_N}")
    return n or 1


def _read_stream_usage(body: JsonObject) -> bool:
    options = body.object("stream_options")
    if options is None:
        return False
    options.skip("include_obfuscation")
    wanted = options.flag("include_usage")
    options.refuse_unread()
    return bool(wanted)


def _read_tools(body: JsonObject) -> tuple[Offer, ...]:
    tools = []
    for tool in body.objects("tools") or []:
        kind = tool.text("type") or "function"
        if kind not in ("function", "custom"):
            if not tool.note("type", f"is ignored: tools of the type {kind[:40]!r} are not offered to the model"):
                raise tool.error("type", "must be 'function' or 'custom'")
            continue
        inner = tool.object(kind)
        if inner is None:
            raise tool.error(kind, "is missing")
        strict = tool.flag("strict")  # where some clients have it
        tools.append(read_custom(inner, nested=True) if kind == "custom" else read_function(inner, strict=strict))
        tool.skip(*CACHING)
        tool.refuse_unread()
    return each_once(tools)


def _read_format(declared: JsonObject | None) -> Form | None:
    if declared is None:
        return None
    kind = declared.one_of("type", "text", "json_object", "json_schema") or "text"
    form = Form(declared.path("type")) if kind == "json_object" else None
    if kind == "json_schema":
        schema = declared.object("json_schema")
        if schema is None:
            raise declared.error("type", "is 'json_schema', but the field json_schema is missing")
        form = read_schema(schema)
    declared.refuse_unread()
    return form
