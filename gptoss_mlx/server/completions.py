"""OpenAI's older ``/v1/completions``: text without harmony, and how likely the model finds a given text."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from datetime import date as Date
from typing import Any

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.reply import Piece, Reply
from gptoss_mlx.requests import Defaults, completions
from gptoss_mlx.requests.completions import Completion
from gptoss_mlx.score import Score
from gptoss_mlx.server.chat_completions import model_of
from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.owner import Ended
from gptoss_mlx.server.problems import Problem, problem_of
from gptoss_mlx.server.residence import Loaded
from gptoss_mlx.server.service import Answering, Of, Service, Waiting

Choice = dict[str, Any]


async def create(exchange: Exchange, service: Service) -> None:
    """Go on from each prompt, or say how likely it is."""
    async with service.model(model_of(exchange.body)) as (name, loaded):
        runtime = loaded.runtime
        defaults = Defaults(runtime.sampling(), date=Date.today().isoformat())
        asked = await asyncio.to_thread(completions.read, exchange.body, defaults, runtime.tokenizer, exchange.notes)
        head = {"id": f"cmpl-{exchange.id}", "object": "text_completion", "created": int(time.time()), "model": name}
        if asked.request.stream:
            await _stream(exchange, service, loaded, asked, head)
            return
        choices = await _together(
            [_answer(service, loaded, asked, index, name, exchange.id) for index in range(len(asked.prompts))]
        )
    used = sum(len(prompt) for prompt in asked.prompts)
    added = sum(tokens for _, tokens in choices)
    usage = {"prompt_tokens": used, "completion_tokens": added, "total_tokens": used + added}
    await exchange.reply(head | {"choices": [choice for choice, _ in choices], "usage": usage})


async def _together(works: "Sequence[Coroutine[None, None, tuple[Choice, int]]]") -> list[tuple[Choice, int]]:
    """Wait for all ``works``. If one raises, end the others and raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _answer(
    service: Service, loaded: Loaded, asked: Completion, index: int, name: str, id: str
) -> tuple[Choice, int]:
    """Return the choice for one prompt, and how many tokens were added to it."""
    tokenizer = loaded.runtime.tokenizer
    prompt = list(asked.prompts[index])
    ids = list(prompt) if asked.echo else []
    text = _text(ids, tokenizer)
    reason = "length"
    added: list[int] = []
    if asked.limit:
        async with service.replying(
            loaded, Answering(id, asked.request, name, prompt, service.calls), plain=True
        ) as answering:
            (reply,) = await answering.whole()
            (order,) = answering.orders
        added = order.ids
        text += reply.content
        reason = _reason(reply)
    logprobs = None
    if asked.likeliest is not None:
        scores = await service.scores(loaded, prompt + added, asked.likeliest)
        first = 0 if asked.echo else len(prompt)
        logprobs = _logprobs(prompt + added, scores, first, asked.likeliest, tokenizer)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}, len(added)


async def _stream(
    exchange: Exchange, service: Service, loaded: Loaded, asked: Completion, head: dict[str, Any]
) -> None:
    if len(asked.prompts) > 1:
        raise Problem(400, "prompt: a stream answers one prompt only", "invalid_value", "prompt")

    async def send(text: str, reason: str | None = None) -> None:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        await exchange.event(head | {"choices": [choice]})

    prompt = list(asked.prompts[0])
    async with service.replying(
        loaded, Answering(exchange.id, asked.request, head["model"], prompt, service.calls), plain=True
    ) as answering:
        try:
            async for come in answering.events():
                match come:
                    case Waiting():
                        await send("")
                    case Of(_, Piece() as piece):
                        await send(piece.joined)
                    case Of(_, Ended(reply)):
                        await send("", _reason(reply))
            await exchange.event("[DONE]")
        except (GptOssError, Problem) as error:
            await exchange.event({"error": problem_of(error).openai})
        await exchange.end()


def _logprobs(
    ids: Sequence[int], scores: Sequence[Score | None], first: int, likeliest: int, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return the ``logprobs`` object for the ids from ``first`` on."""
    tokens = [_token(id, tokenizer) for id in ids]
    offsets = []
    at = 0
    for token in tokens[first:]:
        offsets.append(at)
        at += len(token)
    tops = [
        None
        if score is None
        else {_token(id, tokenizer): logprob for id, logprob in (*score.likeliest, (ids[at], score.logprob))}
        for at, score in enumerate(scores)
    ]
    return {
        "tokens": tokens[first:],
        "token_logprobs": [None if score is None else score.logprob for score in scores[first:]],
        "top_logprobs": tops[first:] if likeliest else None,
        "text_offset": offsets,
    }


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids, markers=True)


def _token(id: int, tokenizer: Tokenizer) -> str:
    """Return a token as text. One that is no whole character is spelled in bytes, as OpenAI does."""
    data = tokenizer.decode_bytes([id], markers=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _reason(reply: Reply) -> str:
    return "length" if reply.reason == "length" else "stop"
