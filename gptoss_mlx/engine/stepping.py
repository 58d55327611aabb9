"""The loop that every token goes through: rows decode together, and the device runs one step ahead of the host.

A step reads the ids that the step before it has drawn, which the host has not seen yet. So reading them back costs the
device no idle time. A row that ends therefore takes part in one step more, whose draw for it is dropped. Where a row
must wait for the host, nothing runs ahead. Knows no prompts, no text, and not where rows come from.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import mlx.core as mx

from gptoss_mlx.engine.context import Context
from gptoss_mlx.engine.sampling import NOT_FINITE, Drawn, Sampling, draw_token
from gptoss_mlx.errors import EngineError, one_line
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder, Step

Finish = Literal["stop", "length"]
"""How a row ended: by one of its stop ids, or by its limit."""


@dataclass(eq=False)
class Row:
    """One sequence to generate. ``context`` may already have read a prefix of ``prompt``. ``shared`` are lengths of
    prefixes with which other rows' prompts may begin too. ``cached`` is how many ids of the prompt need not be read,
    and None until reading begins. ``token`` was given out last, the ``produced``th of ``max_tokens``."""

    id: Hashable
    prompt: list[int]
    context: Context
    max_tokens: int
    sampling: Sampling
    stop: frozenset[int]
    shared: tuple[int, ...] = field(default=(), kw_only=True)
    cached: int | None = field(default=None, init=False)
    produced: int = field(default=0, init=False)
    token: int = field(default=0, init=False)
    points: Iterator[mx.array] = field(init=False)

    def __post_init__(self) -> None:
        self.points = self.sampling.points()

    @property
    def waits(self) -> str | None:
        """Return why the row's next step must wait until the host has seen this one, or None."""
        return "misses" if self.context.model.may_miss else None


@dataclass(frozen=True)
class Produced:
    """A row's next id. ``finished`` is None unless it was the last."""

    id: Hashable
    token: int
    finished: Finish | None


@dataclass(frozen=True)
class Failed:
    """A row that could not be computed and has been removed."""

    id: Hashable
    error: Exception

    @property
    def problem(self) -> str:
        """Return why, in one line."""
        return one_line(self.error)


@dataclass
class _Flight:
    """A step that is under way: what it draws for each row, at these points, and the caches before it."""

    rows: list[Row]
    step: Step
    points: list[mx.array]
    marks: list[KVCache]
    drawn: Drawn

    def undo(self) -> None:
        """Rewind every row to before the step, and give its point back to be drawn at again."""
        for number in range(len(self.rows)):
            self.undo_row(number)

    def undo_row(self, number: int) -> None:
        """Do so for one row."""
        row = self.rows[number]
        row.context.cache.rewind(self.marks[number])
        del row.context.ids[self.marks[number].length :]
        row.points = chain((self.points[number],), row.points)


@dataclass
class Stepper:
    """Rows that decode. Each has ended its prompt and produced a token at least."""

    model: Decoder
    rows: list[Row] = field(default_factory=list, init=False)
    _ahead: _Flight | None = field(default=None, init=False)

    def begin(self, row: Row, logits: mx.array) -> Produced | Failed:
        """Take a row up whose prompt has been read, with the logits [1, V] after it. Wait for its first token."""
        with row.context.undone_on_error():
            drawn = draw_token(logits, row.sampling, next(row.points))
            (id,) = drawn.ids()
        self.rows.append(row)
        return self._give(row, id)

    def remove(self, id: Hashable) -> None:
        """Remove a row. The other rows' ids stay the same."""
        self.rows = [row for row in self.rows if row.id != id]

    def held(self) -> set[Row]:
        """Return the rows whose caches are in use: those that decode, and those that have just ended."""
        return {*self.rows, *(self._ahead.rows if self._ahead is not None else ())}

    def step(self) -> list[Produced | Failed]:
        """Return the next token of every row. A row that cannot be computed is removed. Raises EngineError if there are
        several and each fails alone too: the cause is then not a row's, and all rows stay."""
        if not self.rows:
            self._ahead = None
            return []
        following = None
        flight = self._ahead
        self._ahead = None
        try:
            if flight is None:
                flight = self._launch(list(self.rows), None)
            following = self._launch_ahead(flight)
            ids = self._wait(flight)
            self._ahead = following
            return self._land(flight, ids)
        except BaseException as error:
            self._ahead = None
            for begun in (following, flight):
                if begun is not None:
                    begun.undo()
            if isinstance(error, Exception):
                return self._singly(error)
            raise

    def _launch(self, rows: list[Row], before: _Flight | None) -> _Flight:
        """Launch a step of ``rows``. Those in the step ``before`` read what that one draws, the others their last
        token. Undoes what it has begun if it raises."""
        marks = [row.context.cache.mark() for row in rows]
        points = [next(row.points) for row in rows]
        try:
            step = self.model.decode(_tokens(rows, before), [row.context.cache for row in rows])
            flight = _Flight(rows, step, points, marks, self._draw(step, rows, points))
            mx.async_eval(*flight.drawn, step.pending, [row.context.cache.arrays() for row in rows])
        except BaseException:
            for row, mark, point in zip(rows, marks, points, strict=True):
                row.context.cache.rewind(mark)
                row.points = chain((point,), row.points)
            raise
        for row in rows:
            if before is None or row not in before.rows:
                row.context.ids.append(row.token)
        return flight

    def _launch_ahead(self, flight: _Flight) -> _Flight | None:
        """Launch the step after ``flight``, or return None if a row waits for the host or none goes on.

        An error is not reported here. The step is launched again when the host has seen ``flight``, and if it fails
        then, the rows' states are known.
        """
        rows = [row for row in self.rows if row.produced + (row in flight.rows) < row.max_tokens]
        if not rows or any(row.waits for row in rows):
            return None
        try:
            return self._launch(rows, flight)
        except Exception:
            return None

    def _draw(self, step: Step, rows: list[Row], points: list[mx.array]) -> Drawn:
        """Return a draw for each row. Where all are greedy no logits are kept in memory."""
        if all(row.sampling.temperature == 0 for row in rows):
            return Drawn(*self.model.greedy(step.x))
        logits = self.model.logits(step.x)
        if len(rows) == 1:
            return draw_token(logits, rows[0].sampling, points[0])
        draws = [
            draw_token(logits[number : number + 1], row.sampling, point)
            for number, (row, point) in enumerate(zip(rows, points, strict=True))
        ]
        return Drawn(mx.concatenate([draw.token for draw in draws]), mx.concatenate([draw.witness for draw in draws]))

    def _wait(self, flight: _Flight) -> list[int | None]:
        """Wait for a step, and compute it again while experts were absent. Return what it has drawn."""
        while True:
            mx.eval(*flight.drawn, flight.step.pending)
            if not flight.step.repeat():
                return flight.drawn.ids()
            flight.drawn = self._draw(flight.step, flight.rows, flight.points)

    def _land(self, flight: _Flight, ids: list[int | None]) -> list[Produced | Failed]:
        """Give each row that is still there what ``flight`` has drawn for it."""
        outcomes: list[Produced | Failed] = []
        for number, (row, id) in enumerate(zip(flight.rows, ids, strict=True)):
            if row not in self.rows:
                continue
            if id is None:  # the step after it has read a token drawn from such numbers
                flight.undo_row(number)
            elif self._ahead is not None and row in self._ahead.rows:
                row.context.ids.append(id)
            outcomes.append(self._give(row, id))
        return outcomes

    def _give(self, row: Row, id: int | None) -> Produced | Failed:
        if id is None:
            self.rows.remove(row)
            return Failed(row.id, EngineError(NOT_FINITE))
        row.token = id
        row.produced += 1
        finished: Finish | None = None
        if id in row.stop:
            finished = "stop"
        elif row.produced == row.max_tokens:
            finished = "length"
        if finished:
            self.rows.remove(row)
        return Produced(row.id, id, finished)

    def _singly(self, error: Exception) -> list[Produced | Failed]:
        """Take each row's step alone after ``error``, and wait for it. Remove rows that fail again. If several rows all
        fail, raise."""
        if len(self.rows) == 1:
            return [self._fail(self.rows[0], error)]
        done: list[tuple[Row, _Flight, list[int | None]]] = []
        failed: list[tuple[Row, Exception]] = []
        for row in self.rows:
            flight = None
            try:
                flight = self._launch([row], None)
                done.append((row, flight, self._wait(flight)))
            except BaseException as own:
                if flight is not None:
                    flight.undo()
                if not isinstance(own, Exception):
                    for _, other, _ in done:
                        other.undo()
                    raise
                failed.append((row, own))
        if not done:
            raise EngineError(f"the model cannot be run: {one_line(error)}") from error
        outcomes: list[Produced | Failed] = [self._fail(row, own) for row, own in failed]
        return outcomes + [one for _, flight, ids in done for one in self._land(flight, ids)]

    def _fail(self, row: Row, error: Exception) -> Failed:
        self.rows.remove(row)
        if isinstance(error, RuntimeError | MemoryError):
            error = EngineError(f"the model cannot be run: {one_line(error)}")
        return Failed(row.id, error)


def _tokens(rows: list[Row], before: _Flight | None) -> mx.array:
    """Return the id that each row reads next, [rows] uint32, wherever it is known."""
    if before is None:
        return mx.array([row.token for row in rows], mx.uint32)
    if rows == before.rows:
        return before.drawn.token
    drawn = {row: before.drawn.token[number : number + 1] for number, row in enumerate(before.rows)}
    return mx.concatenate([drawn[row] if row in drawn else mx.array([row.token], mx.uint32) for row in rows])
