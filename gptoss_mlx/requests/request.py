"""The request that both of OpenAI's endpoints are converted to, and the fields that both have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from gptoss_mlx.errors import RequestError, UsageError
from gptoss_mlx.harmony import Message, Tokenizer
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import ReplyReader
from gptoss_mlx.requests.history import Carried, Recall
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.offers import CACHING, Form, Held
from gptoss_mlx.sampling import Sampling

if TYPE_CHECKING:
    from gptoss_mlx.grammars import Grammar

OTHER_EFFORTS: Mapping[str, Effort] = {"none": "low", "minimal": "low", "xhigh": "high", "max": "high"}
"""Efforts of other models, and what gpt-oss has in their place. It cannot think less than a little."""

Thoughts = Literal["text", "summary", "hidden"]
"""How a client wants to see thoughts: as they are, as a summary, for which they stand as they are, or not at all."""

MAX_STOPS = 4
"""OpenAI's limit of stop strings."""

WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls"),  # never more than one
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)
"""Fields of both endpoints that do not change the answer."""

_CALLED_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


@dataclass(frozen=True)
class Defaults:
    """Values for fields that a request does not have. ``max_tokens`` None means: up to the end of the context.
    ``recall`` is as for History. ``form`` and ``thought`` are as for Held."""

    sampling: Sampling
    reasoning: Effort = "medium"
    instructions: str | None = None
    max_tokens: int | None = None
    date: str | None = None
    recall: Recall = lambda id: None
    form: Form | None = None
    thought: int | None = None


def call_key(id: str, index: int, number: int) -> str:
    """Return what tells the ``number``th call of the reply ``index`` to the request ``id`` from all others. The ids
    that clients see are made from it, and end with it."""
    return f"{id}_{number}" if index == 0 else f"{id}_{index}_{number}"


@dataclass(frozen=True)
class Request:
    """One prompt, and how to answer it.

    ``held`` says which tools the model may call and what its replies are held to, with ``grammar``. ``model`` is the
    name in the request, if any. ``repeated`` are settings that the endpoint's response repeats. ``unknown`` are the
    names of ignored fields. ``n`` is how many replies are wanted. ``likeliest`` is how many of the likeliest tokens are
    wanted beside each token's log-probability, None for neither. ``stream_usage``: a stream ends with the counts of
    tokens. ``store``: the response may be asked for later. ``thoughts`` says in which form thoughts are wanted. With
    ``sealed`` they are also wanted in a form that the client sends back unread. ``carried`` is what a later request
    that continues this one begins with.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...] = ()
    held: Held = field(default_factory=Held)
    grammar: "Grammar | None" = None
    stream: bool = False
    model: str | None = None
    repeated: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    n: int = 1
    likeliest: int | None = None
    stream_usage: bool = False
    store: bool = False
    thoughts: Thoughts = "text"
    sealed: bool = False
    carried: Carried = field(default_factory=Carried)

    def reader(self, tokenizer: Tokenizer, prompt_tokens: int, *, guarded: bool) -> ReplyReader:
        """Return what reads a reply to it. ``guarded`` is as for ReplyReader."""
        names = [one.function.name for one in self.held.shown]
        custom = {one.function.name for one in self.held.shown if one.custom}
        return ReplyReader(tokenizer, prompt_tokens, self.stop, names, custom=custom, guarded=guarded)


def read_sampling(body: JsonObject, defaults: Defaults) -> Sampling:
    """Read the sampling fields. ``top_k`` and ``min_p`` are not OpenAI's, but other servers have them."""
    given: dict[str, Any] = {name: body.number(name) for name in ("temperature", "top_p", "min_p")}
    given |= {name: body.integer(name) for name in ("top_k", "seed")}
    try:
        return replace(defaults.sampling, **{name: value for name, value in given.items() if value is not None})
    except UsageError as error:
        raise RequestError(str(error), str(error).split()[0]) from error


def read_adjusted(body: JsonObject, sampling: Sampling) -> Sampling:
    """Return ``sampling`` with the penalties and the bias of the body."""
    names = ("presence_penalty", "frequency_penalty")
    given: dict[str, Any] = {name: value for name in names if (value := body.number(name)) is not None}
    bias = body.object("logit_bias")
    if bias is not None:
        pairs = [(name, bias.number(name) or 0.0) for name in bias.unread()]
        if wrong := next(
            (name for name, value in pairs if not (name.isascii() and name.isdecimal() and len(name) < 9)), None
        ):
            raise bias.error(wrong, "must be a token's id with a number")
        given["logit_bias"] = tuple((int(name), value) for name, value in pairs)
    try:
        return replace(sampling, **given)
    except UsageError as error:
        raise RequestError(str(error), str(error).split()[0]) from error


MOST_LIKELIEST = 20
"""The most of the likeliest tokens that can be asked for beside each, as OpenAI has it."""


def read_likeliest(body: JsonObject, wanted: bool) -> int | None:
    """Return how many of the likeliest tokens are wanted beside each, or None if none is ``wanted``."""
    top = body.integer("top_logprobs")
    if top is not None and not 0 <= top <= MOST_LIKELIEST:
        raise body.error("top_logprobs", f"is {top}; it must be from 0 to {MOST_LIKELIEST}")
    if top and not wanted:
        raise body.error("top_logprobs", "is set, but log-probabilities are not asked for")
    return (top or 0) if wanted else None


def read_limit(body: JsonObject, *names: str) -> int | None:
    """Return the maximum number of tokens: the first present field of ``names``, or None."""
    values = {name: value for name in names if (value := body.integer(name)) is not None}
    for name, value in values.items():
        if value < 1:
            raise body.error(name, f"is {value}; it must be 1 or more")
    return next(iter(values.values()), None)


def read_effort(body: JsonObject, name: str) -> Effort | None:
    """Return how long to think. The efforts of other models count as the next one that gpt-oss has, with a note."""
    given = body.any(name)
    if isinstance(given, str) and given in OTHER_EFFORTS:
        nearest = OTHER_EFFORTS[given]
        if body.note(name, f"{given!r} is none of this model's efforts; it thinks with {nearest!r}"):
            return nearest
    return body.one_of(name, *get_args(Effort))  # type: ignore[return-value]


def read_stop(body: JsonObject) -> tuple[str, ...]:
    """Read ``stop``, in the forms of both of OpenAI's endpoints."""
    value = body.any("stop")
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops) or len(stops) > MAX_STOPS:
        raise body.error("stop", f"must be a string or up to {MAX_STOPS} of them, none empty")
    return tuple(stops)


def read_called_name(function: JsonObject) -> str:
    """Read the name in a call. It may have a namespace, as ``browser.search``; a declared function's may not."""
    name = function.needed_text("name")
    if not _CALLED_NAME.fullmatch(name):
        raise function.error("name", "must be 1 to 128 letters, digits, dots, dashes and underscores")
    return name


def read_parts(holder: JsonObject, name: str, kinds: Mapping[str, str]) -> str | None:
    """Return the text of a content field: a string, or an array of parts. None when the field is absent.

    ``kinds`` maps each allowed type of part to its field with the text. Another type, such as an image, is an error.
    """
    content = read_content(holder, name, kinds)
    return None if content is None else "".join(text for _, text in content)


def needed_parts(holder: JsonObject, name: str, kinds: Mapping[str, str]) -> str:
    """Return what ``read_parts`` returns. Raises RequestError when the field is absent."""
    text = read_parts(holder, name, kinds)
    if text is None:
        raise holder.error(name, "is missing")
    return text


def read_content(holder: JsonObject, name: str, kinds: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """Return the type and the text of each part, as ``read_parts`` reads them. A string has the type ``""``."""
    value = holder.any(name)
    if value is None:
        return None
    if isinstance(value, str):
        return [("", value)]
    if not isinstance(value, list):
        raise holder.error(name, "must be a string or an array of parts")
    found = []
    for number, raw in enumerate(value):
        part = JsonObject(raw, f"{holder.path(name)}[{number}]")
        kind = part.needed_text("type")
        if kind not in kinds:
            raise part.error("type", f"{kind[:40]!r} is not supported; send text only")
        found.append((kind, part.needed_text(kinds[kind])))
        part.skip("annotations", "logprobs", *CACHING)  # these describe the text
        part.refuse_unread()
    return found
