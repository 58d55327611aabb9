"""``/v1/chat/completions``: whole, or as a stream of chunks."""

import time
from collections.abc import Sequence
from typing import Any

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.reply import CallPiece, Piece
from gptoss_mlx.requests import chat_completions
from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.logprobs import Entry
from gptoss_mlx.server.owner import Ended
from gptoss_mlx.server.problems import Problem, problem_of
from gptoss_mlx.server.service import Answering, Of, Service, Waiting


async def create(exchange: Exchange, service: Service) -> None:
    """Answer a chat."""
    created = int(time.time())
    async with service.answering(
        exchange.id,
        model_of(exchange.body),
        lambda defaults: chat_completions.read(exchange.body, defaults, notes=exchange.notes),
    ) as answering:
        if answering.request.stream:
            await _stream(exchange, answering, created)
            return
        replies = await answering.whole()
        about: dict[str, Any] = {"id": exchange.id, "created": created, "model": answering.model, "thought": True}
        logprobs = None if answering.request.likeliest is None else answering.logprobs
        await exchange.reply(chat_completions.write(*replies, logprobs=logprobs, **about))


def model_of(body: Any) -> str | None:
    """Return the model that a body names. What else may be wrong with the body is found when it is read."""
    name = body.get("model") if isinstance(body, dict) else None
    if name is not None and not isinstance(name, str):
        raise Problem(400, "model must be a string", "invalid_value", "model")
    return name


async def _stream(exchange: Exchange, answering: Answering, created: int) -> None:
    head = {"id": f"chatcmpl-{exchange.id}", "object": "chat.completion.chunk", "created": created}
    head |= {"model": answering.model, "system_fingerprint": None}
    usage: dict[str, Any] = {"usage": None} if answering.request.stream_usage else {}

    async def send(
        index: int, delta: dict[str, Any], finish: str | None = None, known: Sequence[Entry] = (), **more: Any
    ) -> None:
        logprobs = chat_completions.write_logprobs([*known]) if known else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        await exchange.event(head | {"choices": [choice]} | usage | more)

    try:
        for index in range(answering.request.n):
            await send(index, {"role": "assistant", "content": "", "refusal": None})
        async for come in answering.events():
            match come:
                case Waiting(read, total):
                    await send(0, {}, prompt_progress={"processed": read, "total": total})
                case Of(index, Piece() as piece, known):
                    await send(index, _said(piece), known=known)
                case Of(index, CallPiece() as piece):
                    await send(index, {"tool_calls": [_called(piece, exchange.id, index)]})
                case Of(index, Ended(reply), known):
                    await send(index, {}, reply.reason, known)
        if answering.request.stream_usage:
            replies = [answering.replies[index] for index in range(answering.request.n)]
            await exchange.event(head | {"choices": [], "usage": chat_completions.write_usage(*replies)})
        await exchange.event("[DONE]")
    except (GptOssError, Problem) as error:
        await exchange.event({"error": problem_of(error).openai})
    await exchange.end()


def _said(piece: Piece) -> dict[str, Any]:
    if piece.section == "thought":
        return {"reasoning": piece.joined, "reasoning_content": piece.joined}
    return {"content": piece.joined}


def _called(piece: CallPiece, id: str, index: int) -> dict[str, Any]:
    """Return the piece of a call. Its id, type and name come once, before its arguments."""
    kind, text = ("custom", "input") if piece.custom else ("function", "arguments")
    if piece.text:
        return {"index": piece.number, kind: {text: piece.text}}
    call_id = chat_completions.call_id(id, index, piece.number)
    return {"index": piece.number, "id": call_id, "type": kind, kind: {"name": piece.name, text: ""}}
