"""``/v1/responses``: create, whole or as a stream of events, and what may be asked of a response afterwards."""

import time
from collections.abc import Callable
from typing import Any

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.requests import Defaults, Request, responses
from gptoss_mlx.requests import response_objects as objects
from gptoss_mlx.server.chat_completions import model_of
from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.owner import Ended
from gptoss_mlx.server.problems import Problem, problem_of
from gptoss_mlx.server.response_events import Growing, ResponseEvent
from gptoss_mlx.server.service import Answering, Of, Service, Waiting
from gptoss_mlx.server.stored import Responses, Stored

LISTED = 20
"""Items of a list where no limit is given, as OpenAI has it."""

MOST_LISTED = 100


async def create(exchange: Exchange, service: Service) -> None:
    """Answer with a response."""
    kept = service.responses
    created = int(time.time())
    previous = responses.previous(exchange.body)
    earlier = kept.find(previous) if previous is not None else None
    if previous is not None and earlier is None:
        raise _unknown(previous, "previous_response_id")
    wanted = model_of(exchange.body)
    carried = earlier.carried_for(service.residence.resolve(wanted)) if earlier else None

    def read(defaults: Defaults) -> Request:
        return responses.read(exchange.body, defaults, carried=carried, notes=exchange.notes)

    async with service.answering(exchange.id, wanted, read) as answering:
        growing = Growing(exchange.id, created, answering.model, answering.request)

        def stop() -> dict[str, Any]:
            answering.cancel()
            return growing.response | {"status": "cancelled"}

        def settle() -> None:
            """Keep the response before its client hears that it has ended."""
            if answering.request.store:
                kept.keep(_stored(exchange, answering, growing))

        kept.running[growing.response["id"]] = stop
        try:
            if answering.request.stream:
                await _stream(exchange, answering, growing, settle)
            else:
                await _whole(answering, growing)
                settle()
                await exchange.reply(growing.response)
        finally:
            del kept.running[growing.response["id"]]


async def retrieve(exchange: Exchange, service: Service) -> None:
    """Give a response that was stored."""
    if exchange.query.get("stream") == "true":
        raise Problem(400, "a response that has ended cannot be streamed again", "invalid_value", "stream")
    await exchange.reply(_find(exchange, service.responses).response)


async def delete(exchange: Exchange, service: Service) -> None:
    """Forget a response that was stored."""
    id = exchange.params["id"]
    if not service.responses.forget(id):
        raise _unknown(id)
    await exchange.reply({"id": id, "object": "response", "deleted": True})


async def cancel(exchange: Exchange, service: Service) -> None:
    """End a response that is under way. Give it as it is, if it has ended."""
    id = exchange.params["id"]
    if stop := service.responses.running.get(id):
        await exchange.reply(stop())
        return
    await exchange.reply(_find(exchange, service.responses).response)


async def input_items(exchange: Exchange, service: Service) -> None:
    """List the items that a response was asked with, the last one first unless ``order`` is asc."""
    items = _find(exchange, service.responses).items
    if exchange.query.get("order") != "asc":
        items = items[::-1]
    given = exchange.query.get("limit", str(LISTED))
    if not given.isdecimal() or not 1 <= int(given[:9]) <= MOST_LISTED:
        raise Problem(400, f"limit must be a number from 1 to {MOST_LISTED}", "invalid_value", "limit")
    limit = int(given)
    after = exchange.query.get("after")
    ids = [item["id"] for item in items]
    if after is not None:
        if after not in ids:
            raise Problem(400, f"after: there is no item {after[:80]!r}", "invalid_value", "after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    await exchange.reply({"object": "list", "data": page, "has_more": len(items) > len(page)} | ends)


async def _stream(exchange: Exchange, answering: Answering, growing: Growing, settle: Callable[[], None]) -> None:
    async def send(events: list[ResponseEvent]) -> None:
        for event in events:
            await exchange.event(event, event["type"])

    await send(growing.begin())
    last: list[ResponseEvent] = []
    try:
        async for come in answering.events():
            events = _events(come, growing)
            if isinstance(come, Of) and isinstance(come.event, Ended):
                last = events
            else:
                await send(events)
        if answering.cancelled:
            last = growing.cancel()
    except (GptOssError, Problem) as error:
        last = growing.fail(problem_of(error))
    settle()
    await send(last)
    await exchange.end()


async def _whole(answering: Answering, growing: Growing) -> None:
    try:
        async for come in answering.events():
            _events(come, growing)
        if answering.cancelled:
            growing.cancel()
    except Problem as problem:  # the model's fault, not the server's
        growing.fail(problem)


def _events(come: Of | Waiting, growing: Growing) -> list[ResponseEvent]:
    match come:
        case Waiting(read, total):
            return growing.wait(read, total)
        case Of(_, Ended(reply), logprobs):
            return growing.end(reply, logprobs)
        case Of(_, piece, logprobs):
            return growing.add(piece, logprobs)  # type: ignore[arg-type]


def _stored(exchange: Exchange, answering: Answering, growing: Growing) -> Stored:
    carried = answering.request.carried
    if 0 in answering.replies and growing.response["status"] != "failed":
        carried = carried.after(answering.replies[0], lambda number: objects.call_id(exchange.id, number))
    given = exchange.body["input"]
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    items = [item | {"id": item.get("id") or f"in_{exchange.id}_{number}"} for number, item in enumerate(given)]
    return Stored(growing.response, items, carried, answering.model, exchange.size)


def _find(exchange: Exchange, kept: Responses) -> Stored:
    id = exchange.params["id"]
    stored = kept.find(id)
    if stored is None:
        raise _unknown(id)
    return stored


def _unknown(id: str, param: str | None = None) -> Problem:
    status = 404 if param is None else 400
    code = "not_found" if param is None else "previous_response_not_found"
    return Problem(status, f"there is no response {id[:80]!r}; it was not stored, or was forgotten", code, param)
