"""Anthropic's ``/v1/messages``: whole, or as a stream of events; and how many tokens a prompt has."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.reply import CallPiece, Piece, Reply
from gptoss_mlx.requests import messages
from gptoss_mlx.server.chat_completions import model_of
from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.owner import Ended
from gptoss_mlx.server.problems import Problem, problem_of
from gptoss_mlx.server.service import Answering, Of, Service, Waiting

MessageEvent = dict[str, Any]


async def create(exchange: Exchange, service: Service) -> None:
    """Answer with a message."""
    async with service.answering(
        exchange.id, _model_of(exchange.body), lambda defaults: messages.read(exchange.body, defaults, exchange.notes)
    ) as answering:
        if answering.request.stream:
            await _stream(exchange, answering)
            return
        (reply,) = await answering.whole()
        await exchange.reply(messages.write(reply, answering.request, id=exchange.id, model=answering.model))


async def count_tokens(exchange: Exchange, service: Service) -> None:
    """Count the tokens of a prompt."""
    async with service.model(_model_of(exchange.body)) as (name, loaded):
        _, prompt = await asyncio.to_thread(
            service.prepare,
            name,
            loaded.runtime,
            lambda defaults: messages.read(exchange.body, defaults, exchange.notes, counting=True),
        )
    await exchange.reply({"input_tokens": len(prompt.ids)})


@dataclass
class Growing:
    """The content blocks of a message while it grows. ``shown``: thoughts are too."""

    id: str
    shown: bool
    _open: str | None = field(default=None, init=False)
    _call: int = field(default=-1, init=False)
    _index: int = field(default=-1, init=False)

    def add(self, piece: Piece | CallPiece) -> list[MessageEvent]:
        """Return the events of a piece. Its block is opened if it is the first."""
        if isinstance(piece, CallPiece):
            events = []
            if self._open != "call" or self._call != piece.number:
                self._call = piece.number
                events = self._begin("call", {"type": "tool_use", "name": piece.name, "input": {}})
            return events + ([self._delta("input_json_delta", partial_json=piece.text)] if piece.text else [])
        if piece.section == "thought":
            if not self.shown:
                return []
            block, kind, name = {"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking"
        else:
            block, kind, name = {"type": "text", "text": ""}, "text_delta", "text"
        if self._open == piece.section:
            return [self._delta(kind, **{name: piece.joined})]
        return [*self._begin(piece.section, block), self._delta(kind, **{name: piece.text})]

    def end(self, reply: Reply) -> list[MessageEvent]:
        """Return the events after the last piece."""
        last = {"type": "message_delta", "delta": messages.write_end(reply), "usage": messages.write_usage(reply)}
        return [*self._close(), last, {"type": "message_stop"}]

    def _begin(self, section: str, block: dict[str, Any]) -> list[MessageEvent]:
        closed = self._close()
        self._open = section
        self._index += 1
        if section == "call":
            block |= {"id": messages.call_id(self.id, self._call)}
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _close(self) -> list[MessageEvent]:
        if self._open is None:
            return []
        signed = self._open == "thought"
        self._open = None
        signature = [self._delta("signature_delta", signature=messages.SIGNATURE)] if signed else []
        return [*signature, {"type": "content_block_stop", "index": self._index}]

    def _delta(self, kind: str, **fields: str) -> MessageEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind} | fields}


async def _stream(exchange: Exchange, answering: Answering) -> None:
    async def send(*events: MessageEvent) -> None:
        for event in events:
            await exchange.event(event, event["type"])

    growing = Growing(exchange.id, answering.request.thoughts != "hidden")
    message = messages.begun(exchange.id, answering.model, len(answering.prompt))
    await send({"type": "message_start", "message": message}, {"type": "ping"})
    try:
        async for come in answering.events():
            match come:
                case Waiting():
                    await send({"type": "ping"})
                case Of(_, Ended(reply)):
                    await send(*growing.end(reply))
                case Of(_, Piece() | CallPiece() as piece):
                    await send(*growing.add(piece))
    except (GptOssError, Problem) as error:
        await send({"type": "error", "error": problem_of(error).anthropic})
    await exchange.end()


def _model_of(body: Any) -> str | None:
    """Return the model that a body names. Any of Anthropic's means the one there is."""
    name = model_of(body)
    return None if name is not None and name.startswith("claude-") else name
