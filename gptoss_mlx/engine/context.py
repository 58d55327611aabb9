"""One sequence of token ids and the cache that has read it. Reads more, and rewinds to an earlier point.

Knows the decoder and one sequence. ``prefix_cache`` knows what other sequences have read.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx

from gptoss_mlx.engine.sampling import NOT_FINITE
from gptoss_mlx.errors import ContextLengthError, EngineError, one_line
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder
from metal_kernels import launch

PREFILL_CHUNK = 512
"""Positions read at a time. It bounds the memory of a chunk's scores and the time until a cancellation takes effect.
Never 8,192 or more: MLX's grouped products go wrong there on Metal (mlx issue 3856)."""

MARKS = 8
"""Marks a context keeps. Each holds the sliding layers and all tails: 6 MB for 20b in bf16."""


class Cancelled(Exception):
    """Reading was cancelled between two chunks. The context keeps the chunks read before."""


@dataclass
class Context:
    """A sequence and its cache. ``ids`` are always exactly the tokens that ``cache`` has read, because a failed or
    interrupted step is undone. ``marks`` are the points that ``rewind`` can return to, in rising order of length.
    ``resumed`` is how many ids of the prompt that it continues had been read before.
    """

    model: Decoder
    cache: KVCache
    ids: list[int] = field(default_factory=list)
    marks: list[KVCache] = field(default_factory=list)
    resumed: int = 0

    @classmethod
    def empty(cls, model: Decoder) -> "Context":
        """Return a context that has read nothing."""
        return cls(model, model.cache())

    def forget(self) -> None:
        """Free what was read."""
        self.cache = self.model.cache()
        self.ids = []
        self.marks = []

    def mark(self) -> None:
        """Mark the current length. Only the last MARKS marks are kept. It is cheap: call it at message boundaries."""
        if not self.marks or self.marks[-1].length < self.cache.length:
            self.marks = [*self.marks[1 - MARKS :], self.cache.mark()]

    def reusable(self, prompt: list[int]) -> int:
        """Return how many ids of ``prompt`` need not be read: up to the last point from which it can be continued. At
        least one id is left to read, because its logits are needed."""
        common = min(common_length(self.ids, prompt), len(prompt) - 1)
        if common == len(self.ids):
            return common
        return max((mark.length for mark in self.marks if mark.length <= common), default=0)

    def rewind(self, prompt: list[int]) -> int:
        """Rewind to the last point from which ``prompt`` can be continued. Return its length, as ``reusable`` does."""
        length = self.reusable(prompt)
        if length < len(self.ids):
            self.marks = [mark for mark in self.marks if mark.length <= length]
            if self.marks:
                self.cache.rewind(self.marks[-1])
            else:
                self.cache = self.model.cache()
            del self.ids[length:]
        return length

    def read(
        self,
        prompt: list[int],
        *,
        chunk: int = PREFILL_CHUNK,
        cancelled: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> mx.array:
        """Rewind and prefill until exactly ``prompt``, the whole sequence, has been read. Return the logits [1, V]
        after its last id.

        Calls ``progress`` with (ids read, ids of ``prompt``) after each chunk. Raises ContextLengthError before any
        work, Cancelled before a chunk once ``cancelled`` returns True, and EngineError for a chunk whose numbers are
        not finite. Such a chunk is undone, because nothing may continue from it.
        """
        limit = self.model.config.max_position_embeddings
        if len(prompt) > limit:
            raise ContextLengthError.of(len(prompt), limit)
        self.rewind(prompt)
        while True:
            if cancelled is not None and cancelled():
                raise Cancelled
            part = prompt[len(self.ids) : len(self.ids) + chunk]
            with self.undone_on_error():
                hidden = self.model(mx.array([part]), self.cache)
                last = hidden[:, -1:]
                witness = launch.witness(hidden.reshape(1, -1))
                mx.eval(last, witness, self.cache.arrays())
                if not math.isfinite(witness.item()):  # type: ignore[arg-type]
                    raise EngineError(NOT_FINITE)
                self.ids += part
            if progress is not None:
                progress(len(self.ids), len(prompt))
            if len(self.ids) == len(prompt):
                with self.undone_on_error():
                    return self.model.logits(last)[:, 0]

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Undo what the block reads if it raises, because a step extends the layers one by one and an error, Ctrl-C
        included, must not leave some ahead of the rest. Raises EngineError in place of MLX's errors."""
        mark = self.cache.mark()
        count = len(self.ids)
        try:
            yield
        except BaseException as error:
            self.cache.rewind(mark)
            del self.ids[count:]
            if isinstance(error, RuntimeError | MemoryError):
                raise EngineError(f"the model cannot be run: {one_line(error)}") from error
            raise


def common_length(a: list[int], b: list[int]) -> int:
    """Return the length of the longest common prefix. Pieces are compared first, 20 times faster than id by id."""
    most = min(len(a), len(b))
    for start in range(0, most, 256):
        one, other = a[start : start + 256], b[start : start + 256]
        if one != other:
            return start + next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), most - start)
    return most
