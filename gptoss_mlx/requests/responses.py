"""OpenAI's ``/v1/responses``: convert a body to a Request, and a Reply to a body.

Fields that would change the answer but are not supported are refused, never ignored.
"""

from typing import Any

from gptoss_mlx.reply import Reply
from gptoss_mlx.requests import response_objects as objects
from gptoss_mlx.requests.history import Carried, History
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.offers import (
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
    needed_parts,
    read_called_name,
    read_effort,
    read_likeliest,
    read_limit,
    read_parts,
    read_sampling,
)

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
    "context_management": (),
    "moderation": (),
}
"""Unsupported fields. Each is accepted with the listed values, because they ask for nothing."""


SEALED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
INCLUDED = (SEALED, LOGPROBS)


def previous(raw: Any) -> str | None:
    """Return the id of the response that the body ``raw`` continues, or None. Raises RequestError."""
    return JsonObject(raw).text("previous_response_id")


def read(raw: Any, defaults: Defaults, *, carried: Carried | None = None, notes: list[str] | None = None) -> Request:
    """Return the request in the body ``raw``. Raises RequestError.

    ``carried`` is the exchange that ``previous_response_id`` names. If it is None, the field is refused. ``notes`` are
    as for JsonObject.
    """
    body = JsonObject(raw, notes=notes)
    for name, harmless in NOT_OFFERED.items():
        body.only(name, *harmless)
    body.skip(*WITHOUT_EFFECT)
    body.overlook("max_tool_calls", because="each reply ends with its calls")
    body.overlook("truncation", "disabled", because="nothing is ever left out of a prompt")
    body.skip("stream_options", "client_metadata")
    if carried is None:
        body.only("previous_response_id")
    history = History(defaults.recall)
    if instructions := body.text("instructions"):
        history.instruct(instructions, "instructions")
    own = bool(instructions and instructions.strip())
    history.go_on(carried or Carried())
    _read_input(body, history)
    reasoning = body.object("reasoning") or JsonObject({}, "reasoning")
    summary = reasoning.text("summary") or reasoning.text("generate_summary")
    reasoning.skip("context")
    include = body.list("include") or []
    if any(one not in INCLUDED for one in include):
        body.overlook("include", because=f"only {' and '.join(INCLUDED)} can be included")
    effort = read_effort(reasoning, "effort") or defaults.reasoning
    store = body.flag("store")
    form = _read_format(body.object("text")) or defaults.form
    thought = read_limit_of_thought(reasoning, "max_tokens")
    held = Held(_read_tools(body), read_choice(body), form, defaults.thought if thought is None else thought)
    sampling = read_sampling(body, defaults)
    limit = read_limit(body, "max_output_tokens") or defaults.max_tokens
    request = Request(
        messages=history.finish(
            "input",
            instructions=defaults.instructions,
            reasoning=effort,
            date=defaults.date,
            functions=held.functions,
            response_format=held.response_format,
        ),
        sampling=sampling,
        likeliest=read_likeliest(body, LOGPROBS in include),
        max_tokens=limit,
        held=held,
        grammar=held.grammar(notes),
        stream=bool(body.flag("stream")),
        model=body.text("model"),
        repeated={
            "instructions": instructions,
            "max_output_tokens": limit,
            "metadata": body.schema("metadata") or {},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_logprobs": body.integer("top_logprobs") or 0,
            "tool_choice": body.any("tool_choice") or "auto",
            "tools": body.list("tools") or [],
            "previous_response_id": body.text("previous_response_id"),
            "reasoning": {"effort": effort, "summary": summary},
            "store": store is not False,
            "text": body.any("text") or {"format": {"type": "text"}},
            "truncation": "disabled",
        },
        store=store is not False,
        thoughts="summary" if summary and summary != "none" else "text",
        sealed=SEALED in include,
        carried=history.carried(own),
    )
    reasoning.refuse_unread()
    body.refuse_unread()
    return request


def write(
    reply: Reply, repeated: dict[str, Any], *, id: str, created: int, model: str, thought: bool
) -> dict[str, Any]:
    """Return the ``response`` object for ``reply``. ``repeated`` is the request's. ``created`` is in Unix seconds.

    All ids are made from ``id``. With ``thought`` the output has the thoughts too.
    """
    empty = objects.response(id, created, model, repeated, "completed")
    output = objects.items(reply, id, "text" if thought else "hidden")
    return empty | objects.ended(reply) | {"output": output}


def _read_input(body: JsonObject, history: History) -> None:
    given = body.any("input")
    if isinstance(given, str):
        history.user(given, "input", empty=body.any("max_output_tokens") == 1)  # so Codex has a model loaded
        return
    items = body.objects("input")
    if not items:
        raise body.error("input", "is missing" if items is None else "is empty")
    for number, item in enumerate(items):
        _read_item(item, f"input[{number}]", history)


def _read_item(item: JsonObject, where: str, history: History) -> None:
    kind = item.text("type") or "message"
    item.skip("id", "status")
    match kind:
        case "message":
            _read_message(item, where, history)
        case "function_call" | "custom_tool_call":
            name = read_called_name(item)
            custom = kind == "custom_tool_call"
            arguments = item.text("input" if custom else "arguments") or ""
            history.called(item.needed_text("call_id"), name, arguments, where, custom=custom)
        case "function_call_output" | "custom_tool_call_output":
            output = needed_parts(item, "output", {"input_text": "text"})
            history.result(item.needed_text("call_id"), output, where)
        case "reasoning":
            # What stands for a thought that is missing: the sealed one, then the summary.
            thought = read_parts(item, "content", {"reasoning_text": "text", "text": "text"})
            sealed = objects.unseal(item.text("encrypted_content") or "")
            if sealed is None:
                item.overlook("encrypted_content", "", because="another program has encrypted it")
            summary = read_parts(item, "summary", {"summary_text": "text"})
            history.thought(thought or sealed or summary or "")
        case _:
            raise item.error("type", f"{kind[:40]!r} is not supported")
    item.overlook_unread()


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


def _read_tools(body: JsonObject) -> tuple[Offer, ...]:
    tools = []
    for tool in body.objects("tools") or []:
        kind = tool.text("type") or ""
        if kind == "function":
            tools.append(read_function(tool))
        elif kind == "custom":
            tools.append(read_custom(tool, nested=False))
        elif not tool.note("type", f"is ignored: tools of the type {kind[:40]!r} are not offered to the model"):
            raise tool.error("type", "must be 'function' or 'custom'")
    return each_once(tools)


def _read_format(text: JsonObject | None) -> Form | None:
    if text is None:
        return None
    text.overlook("verbosity", "medium")
    declared = text.object("format")
    text.refuse_unread()
    if declared is None:
        return None
    kind = declared.one_of("type", "text", "json_object", "json_schema") or "text"
    if kind == "json_schema":
        return read_schema(declared)
    declared.refuse_unread()
    return Form(declared.path("type")) if kind == "json_object" else None
