"""What a request comes down to, and what both of OpenAI's endpoints say in the same way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from gptoss_mlx.engine.sampling import Sampling
from gptoss_mlx.errors import RequestError, UsageError
from gptoss_mlx.harmony import Function, Message
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.requests.json_object import JsonObject

MAX_STOPS = 4
CACHING = ("cache_control", "prompt_cache_breakpoint")
"""Fields by which a client asks to cache a prompt's beginning. They are ignored because the runtime always does."""

WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "stream_options", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)
"""Fields of both endpoints that do not change the answer."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALLED_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


@dataclass(frozen=True)
class Defaults:
    """What holds where a request says nothing. ``max_tokens`` None is the rest of the context."""

    sampling: Sampling
    reasoning: Effort = "medium"
    instructions: str | None = None
    max_tokens: int | None = None
    date: str | None = None


@dataclass(frozen=True)
class Request:
    """One prompt and how it is to be answered.

    ``functions`` are the names of those on offer. ``model`` is the name the request gives, if any. ``repeated`` are
    settings a response of the same endpoint shows again. ``unknown`` fields were passed over; there are none unless
    that was asked for.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    stream: bool = False
    model: str | None = None
    repeated: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def read_sampling(body: JsonObject, defaults: Defaults) -> Sampling:
    """Temperature and its kin. ``top_k`` and ``min_p`` are no fields of OpenAI's, but widely understood."""
    given: dict[str, Any] = {name: body.number(name) for name in ("temperature", "top_p", "min_p")}
    given |= {name: body.integer(name) for name in ("top_k", "seed")}
    try:
        return replace(defaults.sampling, **{name: value for name, value in given.items() if value is not None})
    except UsageError as error:
        raise RequestError(str(error), str(error).split()[0]) from error


def read_limit(body: JsonObject, *names: str) -> int | None:
    """How many tokens at most: the first of ``names`` that is there."""
    values = [(name, body.integer(name)) for name in names]
    for name, value in values:
        if value is not None and value < 1:
            raise body.error(name, f"is {value}; it must be 1 or more")
    return next((value for _, value in values if value is not None), None)


def read_effort(body: JsonObject, name: str, defaults: Defaults) -> Effort:
    return body.one_of(name, *get_args(Effort)) or defaults.reasoning  # type: ignore[return-value]


def read_stop(body: JsonObject) -> tuple[str, ...]:
    value = body.any("stop")
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops) or len(stops) > MAX_STOPS:
        raise body.error("stop", f"must be a string or up to {MAX_STOPS} of them, none empty")
    return tuple(stops)


def read_function(function: JsonObject) -> Function:
    """Name, description and parameters; ``strict`` would promise what is not enforced.

    Responses' tools have these beside ``type``, which is the caller's to read.
    """
    function.only("strict", False)
    function.skip(*CACHING)
    read = Function(read_name(function), function.text("description") or "", function.schema("parameters"))
    function.refuse_unread()
    return read


def read_name(function: JsonObject) -> str:
    name = function.needed_text("name")
    if not _NAME.fullmatch(name):
        raise function.error("name", "must be 1 to 64 letters, digits, dashes and underscores")
    return name


def read_called_name(function: JsonObject) -> str:
    """Of a call that was made, as its author wrote it: ``browser.search`` too, which no declaration may be called."""
    name = function.needed_text("name")
    if not _CALLED_NAME.fullmatch(name):
        raise function.error("name", "must be 1 to 128 letters, digits, dots, dashes and underscores")
    return name


def offered(body: JsonObject, functions: list[Function]) -> tuple[Function, ...]:
    """Return the ``functions`` that the model may call: none where ``tool_choice`` is ``none``.

    Raises RequestError for another ``tool_choice`` than ``auto`` and ``none``, and for two functions of one name.
    """
    choice = body.any("tool_choice")
    if choice not in (None, "auto", "none"):
        raise body.error("tool_choice", "must be 'auto' or 'none': a call cannot be forced")
    if choice == "none":
        return ()
    names = [function.name for function in functions]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"tools: the function '{double}' is declared twice", "tools")
    return tuple(functions)


def read_parts(holder: JsonObject, field: str, kinds: Mapping[str, str]) -> str | None:
    """A content: a string, or parts that hold text. Anything else, such as an image, is an error.

    ``kinds`` maps the parts that may be there to the field that holds their text.
    """
    content = read_content(holder, field, kinds)
    return None if content is None else "".join(text for _, text in content)


def read_content(holder: JsonObject, field: str, kinds: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """The same as (kind, text) of each part; a string is one of kind ``""``."""
    value = holder.any(field)
    if value is None:
        return None
    if isinstance(value, str):
        return [("", value)]
    if not isinstance(value, list):
        raise holder.error(field, "must be a string or an array of parts")
    found = []
    for number, raw in enumerate(value):
        part = JsonObject(raw, f"{holder.name(field)}[{number}]")
        kind = part.needed_text("type")
        if kind not in kinds:
            raise part.error("type", f"{kind[:40]!r} is not supported; only text is")
        found.append((kind, part.needed_text(kinds[kind])))
        part.skip("annotations", "logprobs", *CACHING)  # about the text, none of it
        part.refuse_unread()
    return found
