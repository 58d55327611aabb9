"""Many sequences decoded together. Rows join and leave between steps, each with its own options and its own cache.

A step reads the weights once for all rows. Prompts are prefilled one chunk per step, so that a long prompt does not
delay the other rows. Knows nothing of text or of where rows come from.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from gptoss_mlx.arguments import whole
from gptoss_mlx.engine.context import PREFILL_CHUNK
from gptoss_mlx.engine.prefix_cache import PrefixView
from gptoss_mlx.engine.stepping import Failed, Produced, Row, Stepper
from gptoss_mlx.errors import ContextLengthError, MemoryBudgetError, UsageError
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.model.decoder import Decoder


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

    def __post_init__(self) -> None:
        self._stepper = Stepper(self.model)

    @property
    def decoding(self) -> list[Row]:
        """Return the rows that have read their prompts."""
        return self._stepper.rows

    def add(self, row: Row) -> None:
        """Queue a row. Raises UsageError, ContextLengthError or MemoryBudgetError for one that can never run."""
        limit = self.model.config.max_position_embeddings
        row.max_tokens = whole("max_tokens", row.max_tokens, 1, "a whole number, 1 or more")
        row.sampling.check(self.model.config.vocab_size)
        if not row.prompt:
            raise UsageError("a row needs a prompt")
        if len(row.prompt) >= limit:
            raise ContextLengthError.of(len(row.prompt), limit)
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
        self._stepper.remove(id)

    @property
    def busy(self) -> bool:
        """Return whether any row is left."""
        return bool(self.waiting or self.reading or self.decoding)

    def step(self) -> list[Produced | Failed]:
        """Admit the rows that fit, draw one token for each decoding row, and read one chunk of one prompt. Returns what
        came of each row. A row that cannot be computed is removed. Raises what ``Stepper.step`` raises, and all rows
        stay."""
        self._admit()
        outcomes = self._stepper.step()
        if self.reading:
            row = self.reading[0]
            try:
                outcomes += self._prefill(row)
            except Exception as error:
                outcomes.append(self._fail(row, error))
        return outcomes

    def write(self) -> bool:
        """Write to disk some of what rows shared, without waiting. Return whether all of it is there."""
        return self.prefix_view is None or self.prefix_view.prefixes.write()

    def _admit(self) -> None:
        """Admit rows in the order of arrival, so that small rows cannot overtake a large one for ever."""
        while self.waiting and len(self.reading) + len(self.decoding) < self.max_rows:
            running = sum(self._bytes(row) for row in (*self.reading, *self._stepper.held()))
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
        end = min((shared for shared in row.shared if done < shared < end), default=end)
        logits = context.read(row.prompt[:end], chunk=self.prefill_chunk)
        if end in row.shared and self.prefix_view is not None:
            context.mark()
            self.prefix_view.keep(context)
        if end < len(row.prompt):
            return []
        self.reading.remove(row)
        context.mark()
        return self._stepper.begin(row, logits)

    def _fail(self, row: Row, error: Exception) -> Failed:
        self.remove(row.id)
        return Failed(row.id, error)

    def _bytes(self, row: Row) -> int:
        """Return the bytes of the row's cache, grown to its end."""
        positions = len(row.prompt) + row.max_tokens
        return cache_bytes(self.model.config, positions, self.model.weights.dtype)
