"""Many sequences decoded together. Rows join and leave between steps, each with its own options and its own cache.

A step reads the weights once for all rows. Prompts are prefilled one chunk per step, so that a long prompt does not
delay the other rows. Knows nothing of text or of where rows come from.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx

from gptoss_mlx.arguments import whole
from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.memory import cache_bytes
from gptoss_mlx.engine.prefix_cache import PrefixView
from gptoss_mlx.engine.sampling import Drawn, Sampling, draw_token
from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, UsageError, one_line
from gptoss_mlx.model.decoder import Decoder

Finish = Literal["stop", "length"]
"""How a row ended: by one of its stop ids, or by its limit."""


@dataclass(eq=False)
class Row:
    """One sequence to generate. ``context`` may already have read a prefix of ``prompt``. The first ``shared`` ids of
    the prompt may begin other rows' prompts too. ``cached`` is how many ids of the prompt need not be read, and None
    until reading begins. ``token`` was drawn last and has not been read."""

    id: Hashable
    prompt: list[int]
    context: Context
    max_tokens: int
    sampling: Sampling
    stop: frozenset[int]
    shared: int = field(default=0, kw_only=True)
    cached: int | None = field(default=None, init=False)
    produced: int = field(default=0, init=False)
    token: int = field(default=0, init=False)
    points: Iterator[mx.array] = field(init=False)

    def __post_init__(self) -> None:
        self.points = self.sampling.points()


@dataclass(frozen=True)
class Produced:
    """A row's next id. ``finished`` is None unless it was the last."""

    id: Hashable
    token: int
    finished: Finish | None


@dataclass(frozen=True)
class Failed:
    """A row that could not be computed and has been removed. ``problem`` says why, in one line."""

    id: Hashable
    problem: str


@dataclass
class Batch:
    """Rows that wait, rows whose prompts are being read, and rows that are decoding. At most ``max_rows`` are read or
    decoded at once, and only as many as fit in ``memory`` bytes with caches grown to their ends. Rows resume from
    ``prefix_view`` and keep what they share there."""

    model: Decoder
    max_rows: int = 16
    memory: int | None = None
    prefill_chunk: int = field(default=PREFILL_CHUNK, kw_only=True)
    prefix_view: PrefixView | None = field(default=None, kw_only=True)
    waiting: deque[Row] = field(default_factory=deque, init=False)
    reading: list[Row] = field(default_factory=list, init=False)
    decoding: list[Row] = field(default_factory=list, init=False)

    def add(self, row: Row) -> None:
        """Queue a row. Raises UsageError, ContextLengthError or MemoryBudgetError for one that can never run."""
        limit = self.model.config.max_position_embeddings
        row.max_tokens = whole("max_tokens", row.max_tokens, 1, "a whole number, 1 or more")
        if not row.prompt:
            raise UsageError("a row needs a prompt")
        if len(row.prompt) >= limit:
            raise ContextLengthError(
                f"the prompt has {len(row.prompt):,} tokens, the model's context holds {limit:,}; shorten it"
            )
        row.max_tokens = min(row.max_tokens, limit - len(row.prompt))
        needed = self._bytes(row)
        if self.memory is not None and needed > self.memory:
            raise MemoryBudgetError(
                f"{row.max_tokens:,} tokens after a prompt of {len(row.prompt):,} need {needed / 1e9:.3f} GB of cache, "
                f"{self.memory / 1e9:.3f} GB are allowed; ask for fewer tokens"
            )
        self.waiting.append(row)

    def remove(self, id: Hashable) -> None:
        """Remove a row, whether it waits, is read or decodes. The other rows' ids stay the same."""
        self.waiting = deque(row for row in self.waiting if row.id != id)
        self.reading = [row for row in self.reading if row.id != id]
        self.decoding = [row for row in self.decoding if row.id != id]

    @property
    def busy(self) -> bool:
        """Return whether any row is left."""
        return bool(self.waiting or self.reading or self.decoding)

    def step(self) -> list[Produced | Failed]:
        """Admit the rows that fit, draw one token for each decoding row, and read one chunk of one prompt. Returns what
        came of each row. A row that cannot be computed is removed. Raises EngineError if there are several decoding
        rows and each fails alone too: the cause is then not a row's, and all rows stay."""
        self._admit()
        outcomes = self._decode()
        if self.reading:
            row = self.reading[0]
            try:
                outcomes += self._prefill(row)
            except Exception as error:
                outcomes.append(self._fail(row, error))
        return outcomes

    def _admit(self) -> None:
        """Admit rows in the order of arrival, so that small rows cannot overtake a large one for ever."""
        while self.waiting and len(self.reading) + len(self.decoding) < self.max_rows:
            running = sum(self._bytes(row) for row in (*self.reading, *self.decoding))
            if self.memory is not None and running + self._bytes(self.waiting[0]) > self.memory:
                return
            self.reading.append(self.waiting.popleft())

    def _prefill(self, row: Row) -> list[Produced | Failed]:
        if row.cached is None:
            if self.prefix_view is not None:
                row.context = self.prefix_view.resume(row.context, row.prompt)
            row.cached = row.context.rewind(row.prompt)
        context = row.context
        done = len(context.ids)
        end = min(done + self.prefill_chunk, len(row.prompt))
        if done < row.shared < end:
            end = row.shared
        logits = context.read(row.prompt[:end], chunk=self.prefill_chunk)
        if end == row.shared and self.prefix_view is not None:
            context.mark()
            self.prefix_view.keep(context)
        if end < len(row.prompt):
            return []
        self.reading.remove(row)
        context.mark()
        self.decoding.append(row)
        return self._draw([(row, logits)])

    def _decode(self) -> list[Produced | Failed]:
        rows = list(self.decoding)
        if not rows:
            return []
        try:
            logits = self._read_tokens(rows)
        except Exception as error:
            return self._decode_singly(error)
        return self._draw([(row, logits[number : number + 1]) for number, row in enumerate(rows)])

    def _decode_singly(self, error: Exception) -> list[Produced | Failed]:
        """Retry each row alone after ``error``. Remove rows that fail again. If several rows all fail, raise."""
        outcomes: list[tuple[Row, mx.array | Exception]] = []
        for row in self.decoding:
            try:
                outcomes.append((row, self._read_tokens([row])))
            except Exception as own:
                outcomes.append((row, own))
        if len(outcomes) > 1 and all(isinstance(outcome, Exception) for _, outcome in outcomes):
            raise EngineError(f"the model cannot be run: {one_line(error)}") from error
        failed = [self._fail(row, outcome) for row, outcome in outcomes if isinstance(outcome, Exception)]
        return [*failed, *self._draw([(row, out) for row, out in outcomes if not isinstance(out, Exception)])]

    def _fail(self, row: Row, error: Exception) -> Failed:
        self.remove(row.id)
        return Failed(row.id, one_line(error))

    def _read_tokens(self, rows: list[Row]) -> mx.array:
        """Read each row's last token into its cache and return logits [rows, V]. Rewind every row after an error."""
        marks = [row.context.cache.mark() for row in rows]
        try:
            x = self.model.decode(mx.array([row.token for row in rows]), [row.context.cache for row in rows])
            logits = self.model.logits(x)
            mx.eval(logits, [row.context.cache.arrays() for row in rows])
        except BaseException:
            for row, mark in zip(rows, marks, strict=True):
                row.context.cache.rewind(mark)
            raise
        for row in rows:
            row.context.ids.append(row.token)
        return logits

    def _draw(self, rows: list[tuple[Row, mx.array]]) -> list[Produced | Failed]:
        """Draw a token for each row from its logits [1, V], and wait for all at once. Points are used in the same order
        as in ``generate``, so that a seed gives a row what it gives alone."""
        draws = [draw_token(logits, row.sampling, next(row.points)) for row, logits in rows]
        mx.eval(draws)
        return [self._take(row, draw) for (row, _), draw in zip(rows, draws, strict=True)]

    def _take(self, row: Row, draw: Drawn) -> Produced | Failed:
        try:
            row.token = draw.id()
        except EngineError as error:
            return self._fail(row, error)
        row.produced += 1
        finished: Finish | None = None
        if row.token in row.stop:
            finished = "stop"
        elif row.produced == row.max_tokens:
            finished = "length"
        if finished:
            self.decoding.remove(row)
        return Produced(row.id, row.token, finished)

    def _bytes(self, row: Row) -> int:
        """Return the bytes of the row's cache, grown to its end."""
        positions = len(row.prompt) + row.max_tokens
        return cache_bytes(self.model.config, positions, self.model.weights.dtype)
