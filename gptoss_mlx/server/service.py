"""From a request to the events of its replies, for every endpoint alike.

A request waits for its place and for its model, is rendered beside the event loop, and becomes rows of the owner. When
the block that uses it ends, for whatever reason, its rows end too. Knows no endpoint's shapes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date as Date
from itertools import takewhile

from gptoss_mlx.engine.batching import Row
from gptoss_mlx.errors import ContextLengthError, EngineError, GptOssError, one_line
from gptoss_mlx.harmony import Tokenizer, render, render_messages
from gptoss_mlx.harmony.render import reply_start
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.reply import CallPiece, Piece, Reply
from gptoss_mlx.requests import Defaults, Request
from gptoss_mlx.requests.history import recalled
from gptoss_mlx.requests.request import call_key
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.score import Score
from gptoss_mlx.scorer import Scorer
from gptoss_mlx.server.logprobs import Entry, entry
from gptoss_mlx.server.owner import Broken, Ended, Event, Order, Owner, Scored
from gptoss_mlx.server.problems import Problem, busy, not_offered
from gptoss_mlx.server.residence import Loaded, Residence
from gptoss_mlx.server.stored import Calls, Responses

HEARTBEAT = 10.0
"""Seconds without any event after which a stream shows that it is alive. Clients give up after 60 or more."""

UNLIMITED = 32_768
"""Tokens of a reply whose request names no limit. Without one, memory would have to be kept for the whole context."""

RETRY_SECONDS = 5.0
"""When to come again after too many requests."""


@dataclass(frozen=True)
class Waiting:
    """Nothing has come for HEARTBEAT seconds. ``read`` of the ``total`` ids of the prompt have been read so far."""

    read: int
    total: int


@dataclass(frozen=True)
class Of:
    """An event of the reply ``index``, of several to one request. ``logprobs`` say how likely the tokens of a text
    were, where that is wanted. Those of a text that is held back come with the next one, or with the end."""

    index: int
    event: Piece | CallPiece | Ended
    logprobs: tuple[Entry, ...] = ()


@dataclass(eq=False)
class Answering:
    """The request ``id`` while the model ``model`` answers it. ``calls`` remember its calls. ``shared`` is as for Row.
    ``replies`` are those that have ended, by index, and ``logprobs`` what is said of the tokens of each."""

    id: str
    request: Request
    model: str
    prompt: list[int]
    calls: Calls
    shared: tuple[int, ...] = ()
    tokenizer: Tokenizer | None = None
    orders: list[Order] = field(default_factory=list)
    replies: dict[int, Reply] = field(default_factory=dict)
    told: asyncio.Queue[tuple[int, Event] | None] = field(default_factory=asyncio.Queue)
    logprobs: dict[int, list[Entry]] = field(default_factory=dict)
    cancelled: bool = False

    async def events(self) -> AsyncIterator[Of | Waiting]:
        """Yield what comes, until all replies have ended or ``cancel`` was called. Raises the error of a reply that
        could not be generated, and Problem for one that calls a tool which was not offered, or whose JSON has a name
        twice."""
        known: dict[int, list[Entry]] = {}
        while len(self.replies) < self.request.n:
            try:
                # Not wait_for, which before Python 3.12 forgets that it was cancelled if something has just come.
                async with asyncio.timeout(HEARTBEAT):
                    come = await self.told.get()
            except TimeoutError:
                yield Waiting(self._read(), len(self.prompt))
                continue
            if come is None:
                return
            index, event = come
            if isinstance(event, Scored):
                assert self.tokenizer is not None
                known.setdefault(index, []).append(entry(event.id, event.score, self.tokenizer))
                continue
            if isinstance(event, Broken):
                raise event.error
            if isinstance(event, Ended):
                if event.reply.unknown_calls:
                    raise not_offered(event.reply.unknown_calls[0].name)
                if fault := self.request.held.fault(event.reply):
                    raise Problem(422, fault, "invalid_output")
                self.replies[index] = event.reply
                for number, call in enumerate(recalled(event.reply)):
                    self.calls.keep(self.model, call_key(self.id, index, number), call)
            if isinstance(event, Piece | CallPiece | Ended):
                has_text = isinstance(event, Ended) or (isinstance(event, Piece) and event.section != "thought")
                logprobs = tuple(known.pop(index, ())) if has_text else ()
                self.logprobs.setdefault(index, []).extend(logprobs)
                yield Of(index, event, logprobs)

    async def whole(self) -> list[Reply]:
        """Wait for all replies and return them. Raises what ``events`` raises."""
        async for _ in self.events():
            pass
        return [self.replies[index] for index in range(self.request.n)]

    def fail(self, error: GptOssError) -> None:
        """Have ``events`` raise ``error``."""
        self.told.put_nowait((0, Broken(error)))

    def cancel(self) -> None:
        """End ``events`` before anything else comes."""
        self.cancelled = True
        self.told.put_nowait(None)

    def _read(self) -> int:
        rows = [row for order in self.orders if (row := order.row) is not None]
        return max((min(len(row.context.ids), len(self.prompt)) for row in rows), default=0)


@dataclass(frozen=True)
class Prompt:
    """The ids of a prompt. Others may begin with the first ``shared`` of them."""

    ids: list[int]
    shared: tuple[int, ...]


@dataclass(eq=False)
class Service:
    """Answers at most ``places`` requests at a time, those that wait for the model included. A reply that only repeats
    itself is ended where ``guarded``."""

    owner: Owner
    residence: Residence
    places: int
    responses: Responses = field(default_factory=Responses)
    calls: Calls = field(default_factory=Calls)
    guarded: bool = field(default=True, kw_only=True)
    taken: int = field(default=0, init=False)

    @asynccontextmanager
    async def answering(
        self, id: str, wanted: str | None, read: Callable[[Defaults], Request]
    ) -> AsyncIterator[Answering]:
        """Answer the request ``id`` that ``read`` returns, with the model ``wanted``, inside the block. Raises Problem
        if there is no place, what ``read`` and rendering raise, GrammarError, and the errors of rows that can never
        run."""
        async with self.model(wanted) as (name, loaded):
            request, prompt = await asyncio.to_thread(self.prepare, name, loaded.runtime, read)
            answer = Answering(id, request, name, prompt.ids, self.calls, prompt.shared, loaded.runtime.tokenizer)
            async with self.replying(loaded, answer) as answering:
                yield answering

    @asynccontextmanager
    async def replying(self, loaded: Loaded, answering: Answering, *, plain: bool = False) -> AsyncIterator[Answering]:
        """Have the replies to ``answering``'s prompt generated inside the block. Raises the errors of rows that can
        never run. ``plain`` replies are text without harmony. Where constraints cannot be made yet, the block begins
        before the replies do, so that a stream can show that it is alive; its events then raise these errors."""
        constrained = answering.request.grammar is not None
        beginning = asyncio.ensure_future(self._begin(loaded, answering, plain))
        try:
            if not constrained or loaded.runtime.prepare_constraints().done():
                await beginning
            else:
                beginning.add_done_callback(lambda done: _tell_failure(done, answering))
            yield answering
        finally:
            beginning.cancel()
            for order in answering.orders:
                self.owner.remove(order.id)

    async def _begin(self, loaded: Loaded, answering: Answering, plain: bool) -> None:
        grammar = answering.request.grammar
        if grammar is not None:
            # Compiled here, the vocabulary at first too, so that the thread that steps the rows need not wait.
            await asyncio.to_thread(loaded.runtime.constraint, grammar)
        for index in range(answering.request.n):
            order = self._order(loaded, answering, index, plain)
            answering.orders.append(order)
            await asyncio.wrap_future(self.owner.add(order))

    @asynccontextmanager
    async def model(self, wanted: str | None) -> AsyncIterator[tuple[str, Loaded]]:
        """Have a place, and the model ``wanted`` in memory, inside the block."""
        with self._place():
            async with self.residence.lease(wanted) as held:
                yield held

    def prepare(self, model: str, runtime: Runtime, read: Callable[[Defaults], Request]) -> tuple[Request, Prompt]:
        """Return a request to ``model`` and its prompt. It takes a while, so call it beside the event loop.

        Another conversation may have the same system and developer messages, and the next turn has the same messages.
        """
        request = read(Defaults(runtime.sampling(), date=Date.today().isoformat(), recall=self.calls.of(model)))
        tokenizer = runtime.tokenizer
        ids = render(request.messages, tokenizer, limit=runtime.config.max_position_embeddings)
        head = list(takewhile(lambda message: message.role in ("system", "developer"), request.messages))
        shared = len(render_messages(head, tokenizer)), len(ids) - len(reply_start(tokenizer))
        return request, Prompt(ids, shared)

    async def scores(self, loaded: Loaded, ids: list[int], top: int) -> list[Score | None]:
        """Return the score of each id, None for the first, with the ``top`` likeliest ids at its place. Other rows go
        on between two chunks. Raises ContextLengthError and EngineError."""
        runtime = loaded.runtime
        limit = runtime.config.max_position_embeddings
        if len(ids) > limit:
            raise ContextLengthError.of(len(ids), limit)
        scorer = Scorer(runtime.context(), ids, top, runtime.chunk)
        scores: list[Score | None] = [None]
        while not scorer.done:
            scores += await asyncio.wrap_future(self.owner.do(scorer.read))
        return scores

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self.taken >= self.places:
            raise busy(RETRY_SECONDS)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def _order(self, loaded: Loaded, answering: Answering, index: int, plain: bool) -> Order:
        runtime = loaded.runtime
        request = answering.request
        prompt, shared, told = answering.prompt, answering.shared, answering.told
        limit = request.max_tokens or _longest(loaded, len(prompt))
        seed = request.sampling.seed
        sampling = replace(request.sampling, seed=None if seed is None else seed + index)

        # Neither function may hold the answering, which holds the order: such a circle lasts until it is collected.
        def make(id: Hashable) -> Row:
            grammar = request.grammar
            return Row(
                *(id, prompt, runtime.context(), limit, sampling, runtime.stop_ids),
                shared=shared,
                constraint=None if grammar is None else runtime.constraint(grammar),
                likeliest=request.likeliest,
            )

        reader = request.reader(runtime.tokenizer, len(prompt), guarded=self.guarded and not plain)
        if plain:
            reader.expect_text()
        return Order(self.owner.new_id(), make, reader, lambda event: told.put_nowait((index, event)))


def _tell_failure(beginning: "asyncio.Future[None]", answering: Answering) -> None:
    if not beginning.cancelled() and (error := beginning.exception()) is not None:
        answering.fail(error if isinstance(error, GptOssError) else EngineError(one_line(error)))


def _longest(loaded: Loaded, prompt: int) -> int:
    """Return the most tokens of a reply without a limit of its own: at most UNLIMITED, and what fits in memory."""
    if loaded.memory is None:
        return UNLIMITED
    model = loaded.runtime.model
    limit = UNLIMITED
    while limit > 1 and cache_bytes(model.config, prompt + limit, model.weights.dtype) > loaded.memory:
        limit = limit * 3 // 4
    return limit
