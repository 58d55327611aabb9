"""OpenAI's ``/v1/responses`` without stored responses: convert a body to a Request, and a Reply to a body.

Fields that would change the answer but are not supported are refused, never ignored.
"""

from typing import Any

from gptoss_mlx.harmony import Function, ResponseFormat
from gptoss_mlx.reply import Reply
from gptoss_mlx.requests.history import History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.request import (
    WITHOUT_EFFECT,
    Defaults,
    Request,
    needed_parts,
    offered,
    read_called_name,
    read_effort,
    read_function,
    read_limit,
    read_parts,
    read_sampling,
    read_schema,
    wants_schema,
)

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "include": ([],),
    "previous_response_id": (),
    "prompt": (),
    "context_management": (),
    "max_tool_calls": (),
    "moderation": (),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Unsupported fields. Each is accepted with the listed values, because they ask for nothing."""


def read(raw: Any, defaults: Defaults) -> Request:
    """Return the request in the body ``raw``. Raises RequestError, but not for schemas: rendering them checks them."""
    body = JsonObject(raw)
    for name, harmless in NOT_OFFERED.items():
        body.only(name, *harmless)
    body.skip(*WITHOUT_EFFECT)
    history = History()
    if instructions := body.text("instructions"):
        history.instruct(instructions, "instructions")
    _read_input(body, history)
    reasoning = body.object("reasoning") or JsonObject({}, "reasoning")
    reasoning.skip("summary", "generate_summary")
    functions = _read_tools(body)
    sampling = read_sampling(body, defaults)
    limit = read_limit(body, "max_output_tokens") or defaults.max_tokens
    request = Request(
        messages=history.finish(
            "input",
            instructions=defaults.instructions,
            reasoning=read_effort(reasoning, "effort", defaults),
            date=defaults.date,
            functions=functions,
            response_format=_read_format(body.object("text")),
        ),
        sampling=sampling,
        max_tokens=limit,
        functions=tuple(function.name for function in functions),
        stream=bool(body.flag("stream")),
        model=body.text("model"),
        repeated={
            "instructions": instructions,
            "max_output_tokens": limit,
            "metadata": body.schema("metadata") or {},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "tool_choice": body.any("tool_choice") or "auto",
            "tools": body.list("tools") or [],
        },
    )
    reasoning.refuse_unread()
    body.refuse_unread()
    return request


def write(
    reply: Reply, repeated: dict[str, Any], *, id: str, created: int, model: str, thought: bool
) -> dict[str, Any]:
    """Return the ``response`` object for ``reply``. ``repeated`` is the request's. ``created`` is in Unix seconds.

    All ids are made from ``id``. With ``thought`` the output has the thought as its first item.
    """
    cut_off = reply.reason == "length"
    status = "incomplete" if cut_off else "completed"
    output: list[dict[str, Any]] = []
    if thought and reply.thought:
        content = [{"type": "reasoning_text", "text": reply.thought}]
        output.append({"id": f"rs_{id}", "type": "reasoning", "summary": [], "content": content})
    for text, phase in ((reply.preamble, "commentary"), (reply.text, "final_answer")):
        if text:
            message = {"id": f"msg_{id}_{phase}", "type": "message", "role": "assistant", "status": status}
            parts = [{"type": "output_text", "text": text, "annotations": []}]
            output.append({**message, "phase": phase, "content": parts})
    for number, call in enumerate(reply.calls):
        ids = {"id": f"fc_{id}_{number}", "call_id": f"call_{id}_{number}"}
        function = {"name": call.name, "arguments": call.arguments}
        output.append({"type": "function_call", "status": "completed"} | ids | function)
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut_off else None,
        "model": model,
        "output": output,
        "parallel_tool_calls": False,
        **repeated,
        "usage": {
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": reply.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": reply.thought_tokens},
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        },
    }


def _read_input(body: JsonObject, history: History) -> None:
    given = body.any("input")
    if isinstance(given, str):
        history.user(given, "input")
        return
    items = body.list("input")
    if not items:
        raise body.error("input", "is missing" if items is None else "is empty")
    for number, raw in enumerate(items):
        where = f"input[{number}]"
        _read_item(JsonObject(raw, where), where, history)


def _read_item(item: JsonObject, where: str, history: History) -> None:
    kind = item.text("type") or "message"
    item.skip("id", "status")
    match kind:
        case "message":
            _read_message(item, where, history)
        case "function_call":
            name = read_called_name(item)
            arguments = item.text("arguments") or ""
            history.called(item.needed_text("call_id"), name, arguments, where)
        case "function_call_output":
            output = needed_parts(item, "output", {"input_text": "text"})
            history.result(item.needed_text("call_id"), output, where)
        case "reasoning":
            # The summary replaces a missing thought. An encrypted thought is refused because it cannot be read.
            item.only("encrypted_content", "")
            thought = read_parts(item, "content", {"reasoning_text": "text", "text": "text"})
            summary = read_parts(item, "summary", {"summary_text": "text"})
            history.thought(thought or summary or "")
        case _:
            raise item.error("type", f"{kind[:40]!r} is not supported")
    item.refuse_unread()


def _read_message(item: JsonObject, where: str, history: History) -> None:
    role = item.needed_text("role")
    text = needed_parts(item, "content", {"input_text": "text", "output_text": "text", "refusal": "refusal"})
    match role:
        case "system" | "developer":
            history.instruct(text, where)
        case "user":
            history.user(text, where)
        case "assistant":
            history.said(text, where, before_a_call=item.one_of("phase", "commentary", "final_answer") == "commentary")
        case _:
            raise item.error("role", f"is {role[:40]!r}; use system, developer, user or assistant")


def _read_tools(body: JsonObject) -> tuple[Function, ...]:
    functions = []
    for number, raw in enumerate(body.list("tools") or []):
        tool = JsonObject(raw, f"tools[{number}]")
        if tool.any("type") != "function":
            raise tool.error("type", "must be 'function'")
        functions.append(read_function(tool))
    return offered(body, functions)


def _read_format(text: JsonObject | None) -> ResponseFormat | None:
    if text is None:
        return None
    text.only("verbosity", "medium")
    declared = text.object("format")
    text.refuse_unread()
    if declared is None:
        return None
    if wants_schema(declared):
        return read_schema(declared)
    declared.refuse_unread()
    return None
