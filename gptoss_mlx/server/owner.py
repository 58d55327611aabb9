"""The one thread that owns the model: it loads it, steps the engine's batch, and reads what each row says.

Other threads give it orders, which it carries out between two steps. So a reply joins or ends within one token. Knows
no HTTP, no requests and no names of models.
"""

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from gptoss_mlx.engine.batching import Failed, Produced, Row
from gptoss_mlx.errors import EngineError, GptOssError, one_line
from gptoss_mlx.reply import CallPiece, Piece, Reply
from gptoss_mlx.reply import Ended as Reason
from gptoss_mlx.score import Score

PAUSE = 0.005
"""Seconds between looks at the disk while nothing else is to be done. A new request waits no longer."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """The last event of a reply that was generated."""

    reply: Reply


@dataclass(frozen=True)
class Broken:
    """The last event of a reply that could not be generated."""

    error: GptOssError


@dataclass(frozen=True)
class Token:
    """An id, for those who want ids."""

    id: int


@dataclass(frozen=True)
class Scored:
    """An id that is text for the user, and how likely it was, for those who want that. ``score`` is as for Produced.
    It comes before the text."""

    id: int
    score: Score | None


@dataclass(frozen=True)
class Finished:
    """No id follows, for ``reason``."""

    reason: Reason


Event = Piece | CallPiece | Token | Scored | Finished | Ended | Broken


class Reader(Protocol):
    """What the owner uses of a ReplyReader. ``over`` ends the row. ``said``: the last id was text for
    the user."""

    @property
    def over(self) -> bool: ...
    @property
    def said(self) -> bool: ...
    def feed(self, id: int) -> Iterable[Event]: ...
    def end(self, ended: Reason) -> Iterable[Event]: ...
    def finish(self, ended: Reason, cached: int) -> Any: ...


class Rows(Protocol):
    """What the owner uses of the engine's Batch."""

    @property
    def busy(self) -> bool: ...
    def add(self, row: Row) -> None: ...
    def remove(self, id: Hashable) -> None: ...
    def step(self) -> list[Produced | Failed]: ...
    def write(self) -> bool: ...


@dataclass(eq=False)
class Order:
    """A reply to generate. ``tell`` is called in the event loop's thread, with each event. ``make`` makes the row, with
    the id of the order, on the owner's thread. The ``row`` is kept while it is under way, so that others can see how
    far it has been read, and no longer, because it holds its cache. The ``ids`` that were generated are kept, and how
    many of the prompt's ids were ``cached``."""

    id: Hashable
    make: Callable[[Hashable], Row]
    reader: Reader
    tell: Callable[[Event], None]
    row: Row | None = field(default=None, init=False)
    ids: list[int] = field(default_factory=list, init=False)
    cached: int = field(default=0, init=False)


class Owner:
    """A thread that steps ``rows``, once it has some. Call ``start`` first, and ``close`` last.

    ``post`` has a function called in the event loop's thread. It is called once a step, for all rows together.
    ``working`` is entered while there are rows.
    """

    def __init__(
        self,
        post: Callable[[Callable[[], None]], None],
        working: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.tokens = 0  # given out since the start
        self._post = post
        self._working = working
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ids = itertools.count()
        self._rows: Rows | None = None
        self._asked: dict[Hashable, Order] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def running(self) -> int:
        """Return how many replies are under way, those that wait for room included."""
        return len(self._asked)

    def start(self) -> None:
        """Begin to carry out orders."""
        self._thread.start()

    def close(self, patience: float | None = None) -> None:
        """Drop all rows and end the thread after the step under way. Wait for that, at most ``patience`` seconds."""

        def end() -> None:
            self._closed = True

        self._orders.put(end)
        self._thread.join(patience)

    def do(self, work: Callable[[], T]) -> "Future[T]":
        """Have ``work`` done on the thread, between two steps."""
        done: Future[T] = Future()

        def order() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._orders.put(order)
        return done

    def use(self, rows: Rows | None) -> None:
        """Step ``rows`` from now on. Call it on the thread, when no reply is under way."""
        assert not self._asked, "replies are under way"
        self._rows = rows

    def new_id(self) -> Hashable:
        """Return an id that no other order has."""
        return next(self._ids)

    def add(self, order: Order) -> "Future[None]":
        """Begin a reply. The future has the error for a row that can never run."""

        def work() -> None:
            if self._rows is None:
                raise EngineError("no model is loaded; ask again")
            row = order.make(order.id)
            self._rows.add(row)
            order.row = row
            self._asked[order.id] = order

        return self.do(work)

    def remove(self, id: Hashable) -> None:
        """End a reply, if it is still under way. Nothing more is told of it."""

        def work() -> None:
            order = self._asked.pop(id, None)
            if order is not None and self._rows is not None:
                self._rows.remove(id)
                order.row = None

        self._orders.put(work)

    def _run(self) -> None:
        while not self._closed:
            self._orders.get()()
            with self._working() if self._busy else nullcontext():
                while self._busy and not self._closed:
                    self._step()
                    self._write()
                    while not self._orders.empty():
                        self._orders.get()()
            while not self._write() and self._orders.empty() and not self._closed:
                time.sleep(PAUSE)

    def _write(self) -> bool:
        """Write to disk some of what was read, so that a kill does not lose it. Return whether all of it is there."""
        return self._rows is None or self._rows.write()

    @property
    def _busy(self) -> bool:
        return bool(self._asked) and self._rows is not None and self._rows.busy

    def _step(self) -> None:
        """Step the rows once, and tell what came of it."""
        assert self._rows is not None
        told: list[tuple[Callable[[Event], None], list[Event]]] = []
        try:
            outcomes = self._rows.step()
        except Exception as error:
            outcomes = [Failed(id, error) for id in self._asked]
            for id in self._asked:
                self._rows.remove(id)
        for outcome in outcomes:
            order = self._asked.get(outcome.id)
            if order is not None:
                told.append((order.tell, self._take(order, outcome)))

        def tell() -> None:
            for to, events in told:
                for event in events:
                    to(event)

        if told:
            self._post(tell)

    def _take(self, order: Order, outcome: Produced | Failed) -> list[Event]:
        """Return the events of one row's outcome. Forget the row if it was the last."""
        assert self._rows is not None
        if isinstance(outcome, Failed):
            self._asked.pop(outcome.id).row = None
            error = outcome.error
            return [Broken(error if isinstance(error, GptOssError) else EngineError(one_line(error)))]
        self.tokens += 1
        order.ids.append(outcome.token)
        reader = order.reader
        events: list[Event] = [*reader.feed(outcome.token)]
        row = order.row
        assert row is not None
        order.cached = row.cached or 0
        if row.likeliest is not None and reader.said:
            events.insert(0, Scored(outcome.token, outcome.score))
        if outcome.finished or reader.over:
            if not outcome.finished:
                self._rows.remove(outcome.id)
            self._asked.pop(outcome.id).row = None
            ended = outcome.finished or "stop"
            events += reader.end(ended)
            events.append(Ended(reader.finish(ended, order.cached)))
        return events
