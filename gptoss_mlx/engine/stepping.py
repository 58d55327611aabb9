"""The loop that every token goes through: rows decode together, and the device runs one step ahead of the host.

A step reads the ids that the step before it has drawn, which the host has not seen yet. So reading them back costs the
device no idle time. A row that ends therefore takes part in one step more, whose draw for it is dropped. Where a row
must wait for the host, nothing runs ahead. A row under a constraint waits, because what it may draw depends on what it
has drawn; the host finds that out while the device computes the step. What the constraint forces is given out without a
draw, and read with the next step. Knows no prompts, no text, and not where rows come from.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import mlx.core as mx

from gptoss_mlx.engine.constraint import Constraint, allowed, follow
from gptoss_mlx.engine.context import Context
from gptoss_mlx.engine.sampling import NOT_FINITE, Drawn, adjusted, draw_token, points
from gptoss_mlx.engine.scoring import Scored, scored
from gptoss_mlx.errors import ConstraintError, EngineError, one_line
from gptoss_mlx.model.decoder import Decoder, Step
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.score import Score

Finish = Literal["stop", "length"]
"""How a row ended: by one of its stop ids, or by its limit."""


@dataclass(eq=False)
class Row:
    """One sequence to generate. ``context`` may already have read a prefix of ``prompt``. ``shared`` are lengths of
    prefixes with which other rows' prompts may begin too. ``cached`` is how many ids of the prompt need not be read,
    and None until reading begins. ``produced`` of ``max_tokens`` ids have been given out; those of the last time are
    ``unread`` until the next step. ``constraint`` is None where every id may be drawn. Its end is added to ``stop``.
    ``likeliest`` is None where nobody wants to know how likely its ids are, else how many others shall be told of. The
    ids ``given`` out are kept where a penalty needs them."""

    id: Hashable
    prompt: list[int]
    context: Context
    max_tokens: int
    sampling: Sampling
    stop: frozenset[int]
    shared: tuple[int, ...] = field(default=(), kw_only=True)
    constraint: Constraint | None = field(default=None, kw_only=True)
    likeliest: int | None = field(default=None, kw_only=True)
    cached: int | None = field(default=None, init=False)
    produced: int = field(default=0, init=False)
    unread: list[int] = field(default_factory=list, init=False)
    points: Iterator[mx.array] = field(init=False)
    given: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.points = points(self.sampling)
        if self.constraint is not None:
            self.stop |= {self.constraint.end}

    @property
    def waits(self) -> bool:
        """Return whether the row's next step must wait until the host has seen this one."""
        return self.constraint is not None or self.sampling.penalizes or self.context.model.may_miss

    @property
    def followed(self) -> int:
        """Return how far the constraint has come."""
        return 0 if self.constraint is None else self.constraint.length

    def take_back(self, produced: int, unread: list[int], followed: int) -> None:
        """Take back what it has given out since it had ``produced`` and ``followed`` so much, and was ``unread``."""
        self.produced, self.unread = produced, unread
        del self.given[produced:]
        if self.constraint is not None:
            self.constraint.rewind(followed)


@dataclass(frozen=True)
class Produced:
    """A row's next id. ``finished`` is None unless it was the last. ``score`` says how likely the model found it, by
    its own distribution at temperature 1, if the row wants that; it is None for an id that a constraint forced."""

    id: Hashable
    token: int
    finished: Finish | None
    score: Score | None = None


@dataclass(frozen=True)
class Failed:
    """A row that could not be computed and has been removed."""

    id: Hashable
    error: Exception

    @property
    def problem(self) -> str:
        """Return why, in one line."""
        return one_line(self.error)


class _Mark:
    """What a row's context was before a step, at whose ``point`` it draws."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._cache = row.context.cache.mark()
        self.point = next(row.points)

    def undo(self) -> None:
        """Rewind the row's context, and give its point back to be drawn at again."""
        self._row.context.cache.rewind(self._cache)
        del self._row.context.ids[self._cache.length :]
        self._row.points = chain((self.point,), self._row.points)


Masks = list[mx.array | None]
"""For each row of a step the ids that it may draw, None where that is every id."""


@dataclass
class _Flight:
    """A step that is under way: what it draws for each row and how likely that is, at which marks it began, and with
    which masks."""

    rows: list[Row]
    step: Step
    marks: list[_Mark]
    masks: Masks
    drawn: Drawn
    scored: list[Scored | None]

    def undo(self) -> None:
        """Rewind every row to before the step."""
        for mark in self.marks:
            mark.undo()


@dataclass
class Stepper:
    """Rows that decode. Each has ended its prompt and produced a token at least."""

    model: Decoder
    rows: list[Row] = field(default_factory=list, init=False)
    _ahead: _Flight | None = field(default=None, init=False)

    def begin(self, row: Row, logits: mx.array) -> list[Produced | Failed]:
        """Take a row up whose prompt has been read, with the logits [1, V] after it. Wait for its first tokens."""
        mask = None
        if row.constraint is not None:
            if forced := follow(row.constraint, None):
                self.rows.append(row)
                return self._give_out(row, forced)
            mask = allowed(row.constraint, self.model.config.vocab_size)
        with row.context.undone_on_error():
            drawn, scored = _drawn(row, logits, next(row.points), mask)
            (id,) = drawn.ids()
        self.rows.append(row)
        return self._give(row, id, scored)

    def remove(self, id: Hashable) -> None:
        """Remove a row. The other rows' ids stay the same."""
        self.rows = [row for row in self.rows if row.id != id]
        self._let_go()

    def held(self) -> set[Row]:
        """Return the rows whose caches are in use: those that decode, and those that have just ended."""
        return {*self.rows, *(self._ahead.rows if self._ahead is not None else ())}

    def step(self) -> list[Produced | Failed]:
        """Return the next tokens of every row, several where a constraint forces them. A caller who removes a row after
        one of them drops the others. A row that cannot be computed is removed. Raises EngineError if there are
        several and each fails alone too: the cause is then not a row's, and all rows stay."""
        if not self.rows:
            return []
        following = None
        rows = list(self.rows)
        given = [(row.produced, row.unread, row.followed) for row in rows]
        flight = self._ahead
        self._ahead = None
        try:
            if flight is None:
                flight = self._launch(rows, None)
            following = self._launch_ahead(flight)
            ids = self._wait(flight)
            self._ahead = following
            outcomes = self._land(flight, ids)
            self._let_go()
            return outcomes
        except BaseException as error:
            self._ahead = None
            for begun in (following, flight):
                if begun is not None:
                    begun.undo()
            self.rows = rows
            for row, before in zip(rows, given, strict=True):
                row.take_back(*before)
            if not isinstance(error, Exception):
                raise
            return self._singly(error)

    def _launch(self, rows: list[Row], before: _Flight | None) -> _Flight:
        """Launch a step of ``rows``. Those in the step ``before`` read what that one draws, the others what they have
        not read. Undoes what it has begun if it raises."""
        marks = [_Mark(row) for row in rows]
        try:
            for row in rows:
                if row.unread[:-1]:
                    self.model(mx.array([row.unread[:-1]], mx.uint32), row.context.cache)
            step = self.model.decode(_tokens(rows, before), [row.context.cache for row in rows])
            masks = self._masks(rows, step)
            flight = _Flight(rows, step, marks, masks, *self._draw(step, rows, marks, masks))
            mx.async_eval(*flight.drawn, flight.scored, step.pending, [row.context.cache.arrays() for row in rows])
        except BaseException:
            for mark in marks:
                mark.undo()
            raise
        for row in rows:
            if before is None or row not in before.rows:
                row.context.ids += row.unread
        return flight

    def _masks(self, rows: list[Row], step: Step) -> Masks:
        """Return what the rows may draw after ``step``. The device computes the step meanwhile."""
        if all(row.constraint is None for row in rows):
            return [None] * len(rows)
        mx.async_eval(step.pending)
        size = self.model.config.vocab_size
        return [allowed(row.constraint, size) if row.constraint is not None else None for row in rows]

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

    def _draw(self, step: Step, rows: list[Row], marks: list[_Mark], masks: Masks) -> tuple[Drawn, list[Scored | None]]:
        """Return a draw for each row, and how likely it is where that is wanted. Where all are greedy and free no
        logits are kept in memory."""
        if all(_is_plain(row) and mask is None for row, mask in zip(rows, masks, strict=True)):
            return Drawn(*self.model.greedy(step.x)), [None] * len(rows)
        logits = self.model.logits(step.x)
        found = [
            _drawn(row, logits[number : number + 1], mark.point, mask)
            for number, (row, mark, mask) in enumerate(zip(rows, marks, masks, strict=True))
        ]
        draws, scores = [draw for draw, _ in found], [scored for _, scored in found]
        if len(rows) == 1:
            return draws[0], scores
        tokens, witnesses = (mx.concatenate(list(parts)) for parts in zip(*draws, strict=True))
        return Drawn(tokens, witnesses), scores

    def _wait(self, flight: _Flight) -> list[int | None]:
        """Wait for a step, and compute it again while experts were absent. Return what it has drawn."""
        while True:
            mx.eval(*flight.drawn, flight.step.pending)
            if not flight.step.repeat():
                return flight.drawn.ids()
            flight.drawn, flight.scored = self._draw(flight.step, flight.rows, flight.marks, flight.masks)

    def _land(self, flight: _Flight, ids: list[int | None]) -> list[Produced | Failed]:
        """Give each row that is still there what ``flight`` has drawn for it."""
        outcomes: list[Produced | Failed] = []
        for number, (row, id) in enumerate(zip(flight.rows, ids, strict=True)):
            if row not in self.rows:
                continue
            if id is None:  # the step after it has read a token drawn from such numbers
                flight.marks[number].undo()
            elif self._ahead is not None and row in self._ahead.rows:
                row.context.ids.append(id)
            outcomes += self._give(row, id, flight.scored[number])
        return outcomes

    def _give(self, row: Row, id: int | None, scored: Scored | None) -> list[Produced | Failed]:
        """Give out an id that was drawn and what it forces."""
        if id is None:
            self.rows.remove(row)
            return [Failed(row.id, EngineError(NOT_FINITE))]
        score = None if scored is None else scored.scores()[0]
        if row.constraint is None or id in row.stop:
            return self._give_out(row, [id], score)
        try:
            return self._give_out(row, [id, *follow(row.constraint, id)], score)
        except ConstraintError as error:
            self.rows.remove(row)
            return [Failed(row.id, error)]

    def _give_out(self, row: Row, ids: list[int], score: Score | None = None) -> list[Produced | Failed]:
        """Give out ids up to the row's end. ``score`` is the first one's."""
        outcomes: list[Produced | Failed] = []
        row.unread = ids
        for id in ids:
            row.produced += 1
            if row.sampling.penalizes:
                row.given.append(id)
            last = row.produced == row.max_tokens
            finished: Finish | None = "stop" if id in row.stop else "length" if last else None
            outcomes.append(Produced(row.id, id, finished, score))
            score = None
            if finished:
                self.rows.remove(row)
                break
        return outcomes

    def _singly(self, error: Exception) -> list[Produced | Failed]:
        """Take each row's step alone after ``error``, and wait for it. Remove rows that fail again. If several rows all
        fail, raise."""
        if len(self.rows) == 1:
            return [self._fail(self.rows[0], error)]
        done: list[tuple[Row, _Flight, list[int | None]]] = []
        failed: list[tuple[Row, Exception]] = []
        for row in self.rows:
            try:
                done.append((row, *self._alone(row)))
            except Exception as own:
                failed.append((row, own))
            except BaseException:
                for _, other, _ in done:
                    other.undo()
                raise
        if not done:
            raise EngineError(f"the model cannot be run: {one_line(error)}") from error
        outcomes: list[Produced | Failed] = [self._fail(row, own) for row, own in failed]
        return outcomes + [one for _, flight, ids in done for one in self._land(flight, ids)]

    def _alone(self, row: Row) -> tuple[_Flight, list[int | None]]:
        flight = self._launch([row], None)
        try:
            return flight, self._wait(flight)
        except BaseException:
            flight.undo()
            raise

    def _let_go(self) -> None:
        """Drop a step that no row will read. It would hold their caches until a row begins."""
        if not self.rows:
            self._ahead = None

    def _fail(self, row: Row, error: Exception) -> Failed:
        self.rows.remove(row)
        if isinstance(error, RuntimeError | MemoryError):
            error = EngineError(f"the model cannot be run: {one_line(error)}")
        return Failed(row.id, error)


def _is_plain(row: Row) -> bool:
    """Return whether the row's next id is the likeliest one, whatever else is known of it."""
    return row.sampling.temperature == 0 and not row.sampling.adjusts and row.likeliest is None


def _drawn(row: Row, logits: mx.array, point: mx.array, mask: mx.array | None) -> tuple[Drawn, Scored | None]:
    """Return a draw for a row from logits [1, V], and how likely it is if the row wants that."""
    among = adjusted(logits, row.sampling, Counter(row.given)) if row.sampling.adjusts else logits
    drawn = draw_token(among, row.sampling, point, mask)
    return drawn, None if row.likeliest is None else scored(logits, drawn.token, row.likeliest)


def _tokens(rows: list[Row], before: _Flight | None) -> mx.array:
    """Return the id that each row reads next, [rows] uint32, wherever it is known."""
    if before is None:
        return mx.array([row.unread[-1] for row in rows], mx.uint32)
    if rows == before.rows:
        return before.drawn.token
    drawn = {row: before.drawn.token[number : number + 1] for number, row in enumerate(before.rows)}
    return mx.concatenate([drawn[row] if row in drawn else mx.array(row.unread[-1:], mx.uint32) for row in rows])
