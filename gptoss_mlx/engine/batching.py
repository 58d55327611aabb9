"""Many sequences decoded together: rows join and leave between steps, each with its own options and its own cache.

Weights are read once a step for all rows, and prompts are prefilled a chunk at a time between steps, so that a long one
does not hold up the others. Knows nothing of text, nor of where rows come from.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx

from gptoss_mlx.arguments import whole
from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.memory import cache_bytes
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.sampling import Drawn, Sampling, drawn
from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, UsageError, one_line
from gptoss_mlx.model.decoder import Decoder


@dataclass(eq=False)
class Row:
    """One sequence to generate. ``context`` may already have read a beginning of ``prompt``.

    ``cached`` ids of the prompt did not have to be read; None until reading has begun.
    """

    id: Hashable
    prompt: list[int]
    context: Context
    max_tokens: int
    sampling: Sampling
    stop: frozenset[int]
    shared: int = 0  # ids at the beginning of the prompt that other rows may have too
    cached: int | None = None
    produced: int = 0
    token: int = 0  # drawn, not yet read
    keys: Iterator[mx.array] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = self.sampling.keys()

    @property
    def positions(self) -> int:
        """What its cache may grow to."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Produced:
    """A row's next id, and whether it was the last: ``stop`` by an id of its own, ``length`` by its limit."""

    id: Hashable
    token: int
    finished: Literal["stop", "length"] | None


@dataclass(frozen=True)
class Failed:
    """A row that could not be computed and is no longer there; the others are as they were."""

    id: Hashable
    problem: str


@dataclass
class Batch:
    """Rows under way and rows waiting.

    At most ``max_rows`` run at once, and only as many as their caches, grown to the end, fit in ``memory`` bytes.
    ``model_key`` names the model in ``prefixes``.
    """

    model: Decoder
    max_rows: int = 16
    memory: int | None = None
    prefill_chunk: int = PREFILL_CHUNK
    prefixes: PrefixCache | None = None
    model_key: str = ""
    waiting: deque[Row] = field(default_factory=deque)
    reading: list[Row] = field(default_factory=list)
    decoding: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Queue a row. Raises what makes it impossible, before any work: ContextLengthError, MemoryBudgetError."""
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
        """Drop a row wherever it stands. The others do not notice."""
        self.waiting = deque(row for row in self.waiting if row.id != id)
        self.reading = [row for row in self.reading if row.id != id]
        self.decoding = [row for row in self.decoding if row.id != id]

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.reading or self.decoding)

    def step(self) -> list[Produced | Failed]:
        """Admit who fits, read one chunk of one prompt, and draw one token for every row that is decoding.

        A row that cannot be computed is taken out. Raises EngineError when every one of several fails, each by itself:
        then it is not a row's fault, and all of them are still there.
        """
        self._admit()
        out = self._decode()
        if self.reading:
            row = self.reading[0]
            try:
                out += self._prefill(row)
            except Exception as error:
                out.append(self._fail(row, error))
        return out

    def _admit(self) -> None:
        """In the order of arrival: a large row that must wait is not overtaken for ever by small ones."""
        while self.waiting and len(self.reading) + len(self.decoding) < self.max_rows:
            running = sum(self._bytes(row) for row in (*self.reading, *self.decoding))
            if self.memory is not None and running + self._bytes(self.waiting[0]) > self.memory:
                return
            self.reading.append(self.waiting.popleft())

    def _prefill(self, row: Row) -> list[Produced | Failed]:
        if row.cached is None:
            if self.prefixes is not None:
                row.context = self.prefixes.go_on(self.model_key, row.context, row.prompt)
            row.cached = row.context.reuse(row.prompt)
        context = row.context
        done = len(context.ids)
        end = min(done + self.prefill_chunk, len(row.prompt))
        if done < row.shared < end:
            end = row.shared
        logits = context.read(row.prompt[:end], chunk=self.prefill_chunk)
        if end == row.shared and self.prefixes is not None:
            context.mark()
            self.prefixes.keep(self.model_key, context)
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
        """After a step that failed with ``error``: whoever fails again alone is at fault, unless several do and all."""
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
        """Each row's last token into its cache; logits [T, V]. An error leaves every row as it was."""
        marks = [row.context.cache.mark() for row in rows]
        try:
            x = self.model.decode(mx.array([[row.token] for row in rows]), [row.context.cache for row in rows])
            logits = self.model.logits(x)[:, 0]
            mx.eval(logits, [row.context.cache.arrays() for row in rows])
        except BaseException:
            for row, mark in zip(rows, marks, strict=True):
                row.context.cache.rewind(mark)
            raise
        for row in rows:
            row.context.ids.append(row.token)
        return logits

    def _draw(self, rows: list[tuple[Row, mx.array]]) -> list[Produced | Failed]:
        """A token for each row from its logits [1, V], waited for once. The same keys in the same order as in
        ``generate``: a seed gives a row what it gives a single run."""
        draws = [drawn(logits, row.sampling, next(row.keys)) for row, logits in rows]
        mx.eval(draws)
        return [self._take(row, draw) for (row, _), draw in zip(rows, draws, strict=True)]

    def _take(self, row: Row, draw: Drawn) -> Produced | Failed:
        try:
            row.token = draw.id()
        except EngineError as error:
            return self._fail(row, error)
        row.produced += 1
        finished: Literal["stop", "length"] | None = None
        if row.token in row.stop:
            finished = "stop"
        elif row.produced == row.max_tokens:
            finished = "length"
        if finished:
            self.decoding.remove(row)
        return Produced(row.id, row.token, finished)

    def _bytes(self, row: Row) -> int:
        return cache_bytes(self.model.config, row.positions, self.model.weights.head.dtype)
