"""OpenAI's older ``/v1/completions``: text, or token ids, that the model goes on from. There is no harmony in it.

It is read as far as evaluations need it. Fields that would change the answer but are not supported are refused.
"""

from dataclasses import dataclass
from typing import Any

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.requests.json_object import JsonObject
from gptoss_mlx.requests.request import Defaults, Request, read_adjusted, read_limit, read_sampling, read_stop

MAX_TOKENS = 16
"""Tokens where no limit is given, as OpenAI has it."""

MOST_LIKELIEST = 5
"""The most of the likeliest tokens that can be asked for, as OpenAI has it."""

MOST_PROMPTS = 256

NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "best_of": (1,),
    "n": (1,),
}
"""Unsupported fields. Each is accepted with the listed values, because they ask for nothing."""


@dataclass(frozen=True)
class Completion:
    """Prompts in token ids, and how to go on from each. With a limit of 0 nothing is added. ``likeliest`` is how many
    of the likeliest tokens are wanted beside each token's own log-probability, None for neither. With ``echo`` the
    prompt is part of the answer."""

    prompts: tuple[tuple[int, ...], ...]
    request: Request
    limit: int
    echo: bool
    likeliest: int | None


def read(raw: Any, defaults: Defaults, tokenizer: Tokenizer, notes: list[str]) -> Completion:
    """Return what the body ``raw`` asks for. Raises RequestError. ``notes`` are as for JsonObject."""
    body = JsonObject(raw, notes=notes)
    for name, harmless in NOT_OFFERED.items():
        body.only(name, *harmless)
    body.skip("user", "stream_options")
    given = body.integer("max_tokens")
    limit = 0 if given == 0 else read_limit(body, "max_tokens") or MAX_TOKENS
    echo = bool(body.flag("echo"))
    if limit == 0 and not echo:
        raise body.error("max_tokens", "is 0, and without echo there would be nothing to answer")
    likeliest = body.integer("logprobs")
    if likeliest is not None and not 0 <= likeliest <= MOST_LIKELIEST:
        raise body.error("logprobs", f"is {likeliest}; it must be from 0 to {MOST_LIKELIEST}")
    stream = bool(body.flag("stream"))
    if stream and (echo or likeliest is not None):
        raise body.error("stream", "cannot be had with echo or logprobs")
    request = Request(
        messages=(),
        sampling=read_adjusted(body, read_sampling(body, defaults)),
        max_tokens=limit,
        stop=read_stop(body),
        stream=stream,
        model=body.text("model"),
    )
    completion = Completion(_read_prompts(body, tokenizer), request, limit, echo, likeliest)
    body.refuse_unread()
    return completion


def _read_prompts(body: JsonObject, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Read a text, ids, or a list of either."""
    given = body.any("prompt")
    several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    prompts = given if several else [given]
    if len(prompts) > MOST_PROMPTS:
        raise body.error("prompt", f"has {len(prompts):,} prompts; send at most {MOST_PROMPTS}")
    return tuple(tuple(_ids(body, prompt, tokenizer)) for prompt in prompts)


def _ids(body: JsonObject, prompt: Any, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if not isinstance(ids, list) or not ids:
        raise body.error("prompt", "must be a text or a list of token ids, not empty, or several of them")
    if not all(type(id) is int and 0 <= id < tokenizer.vocab_size for id in ids):
        raise body.error("prompt", f"has ids that are none of the {tokenizer.vocab_size:,} there are")
    return ids
