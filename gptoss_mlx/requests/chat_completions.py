"""OpenAI's ``/v1/chat/completions``: convert a body to a Request, and a Reply to a body.

Fields that would change the answer but are not supported are refused, never ignored. A JSON schema becomes part of the
prompt, as in the model's training. Nothing enforces the schema, so ``strict`` is refused.
"""

from typing import Any

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Function, ResponseFormat
from gptoss_mlx.reply import Reply
from gptoss_mlx.requests.history import History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.request import (
    CACHING,
    WITHOUT_EFFECT,
    Defaults,
    Request,
    needed_parts,
    offered,
    read_called_name,
    read_content,
    read_effort,
    read_function,
    read_limit,
    read_sampling,
    read_schema,
    read_stop,
    wants_schema,
)

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": (),
    "function_call": (),
    "moderation": (),
}
"""Unsupported fields. Each is accepted with the listed values, because they ask for nothing."""

THOUGHTS = ("reasoning", "reasoning_content", "thinking")
"""Fields in which other clients send and expect a message's thought. The published chat template uses the last."""

TEXT_PARTS = {"text": "text"}
"""The type of part that a message may have, and its field with the text."""


def read(raw: Any, defaults: Defaults, *, unknown_fields: bool = False) -> Request:
    """Return the request in the body ``raw``. Raises RequestError, but not for schemas: rendering them checks them.

    With ``unknown_fields`` unknown fields are ignored and named in the request, because data sets have other columns.
    """
    body = JsonObject(raw)
    for name, harmless in NOT_OFFERED.items():
        body.only(name, *harmless)
    body.skip(*WITHOUT_EFFECT)
    messages = body.list("messages")
    if not messages:
        raise body.error("messages", "is missing" if messages is None else "is empty")
    history = History()
    for number, message in enumerate(messages):
        _read_message(JsonObject(message, f"messages[{number}]"), f"messages[{number}]", history)
    functions = _read_tools(body)
    limit = read_limit(body, "max_completion_tokens", "max_tokens")
    request = Request(
        messages=history.finish(
            "messages",
            instructions=defaults.instructions,
            reasoning=read_effort(body, "reasoning_effort", defaults),
            date=defaults.date,
            functions=functions,
            response_format=_read_format(body.object("response_format")),
        ),
        sampling=read_sampling(body, defaults),
        max_tokens=limit or defaults.max_tokens,
        stop=read_stop(body),
        functions=tuple(function.name for function in functions),
        stream=bool(body.flag("stream")),
        model=body.text("model"),
        unknown=body.unread(),
    )
    if not unknown_fields:
        body.refuse_unread()
    return request


def write(reply: Reply, *, id: str, created: int, model: str, thought: bool) -> dict[str, Any]:
    """Return the ``chat.completion`` object for ``reply``.

    All ids in it are made from ``id``. ``created`` is in Unix seconds. With ``thought`` the message has the thought as
    ``reasoning``, the field that other servers use for gpt-oss; OpenAI has no field for it.
    """
    message: dict[str, Any] = {"role": "assistant", "content": reply.content or None, "refusal": None}
    if thought:
        message["reasoning"] = reply.thought
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{id}_{number}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for number, call in enumerate(reply.calls)
        ]
    return {
        "id": f"chatcmpl-{id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.reason}],
        "usage": {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": reply.thought_tokens},
        },
    }


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
    message.refuse_unread()


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
        function = call.object("function")
        if call.any("type") not in (None, "function") or function is None:
            raise call.error("type", "must be 'function', and the function must be present")
        arguments = function.text("arguments") or ""
        history.called(call.needed_text("id"), read_called_name(function), arguments, where)
        function.refuse_unread()
        call.only("index", number)  # streamed calls have it
        call.refuse_unread()


def _read_tools(body: JsonObject) -> tuple[Function, ...]:
    functions = []
    for number, raw in enumerate(body.list("tools") or []):
        tool = JsonObject(raw, f"tools[{number}]")
        function = tool.object("function")
        if tool.any("type") != "function" or function is None:
            raise tool.error("type", "must be 'function', and the function must be present")
        functions.append(read_function(function))
        tool.only("strict", False)
        tool.skip(*CACHING)
        tool.refuse_unread()
    return offered(body, functions)


def _read_format(declared: JsonObject | None) -> ResponseFormat | None:
    if declared is None:
        return None
    response_format = None
    if wants_schema(declared):
        schema = declared.object("json_schema")
        if schema is None:
            raise declared.error("type", "is 'json_schema', but the field json_schema is missing")
        response_format = read_schema(schema)
    declared.refuse_unread()
    return response_format
