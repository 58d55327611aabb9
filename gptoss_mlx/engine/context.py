"""One sequence of token ids and the cache that has read it: read more, go back, never read the same prefix twice."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx

from gptoss_mlx.engine.sampling import NOT_FINITE
from gptoss_mlx.errors import ContextLengthError, EngineError, one_line
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder
from metal_kernels import launch as ops

PREFILL_CHUNK = 512
"""Positions read at a time. Bounds the memory of a chunk's scores, and is how long a cancellation may take.
Never 8,192 or more: MLX's grouped products go wrong there on Metal (mlx issue 3856)."""

MARKS = 8
"""Points kept to come back to. Each holds the sliding layers and all tails: 6 MB for 20b in bf16."""


class Cancelled(Exception):
    """Reading was cancelled between chunks; what had been read stays read."""


@dataclass
class Context:
    """``ids`` are exactly the tokens ``cache`` has read, whatever happened: a failed or interrupted step is undone."""

    model: Decoder
    cache: KVCache
    ids: list[int] = field(default_factory=list)
    marks: list[KVCache] = field(default_factory=list)  # in rising order of length

    @classmethod
    def empty(cls, model: Decoder) -> "Context":
        return cls(model, KVCache.empty(model.config))

    def mark(self) -> None:
        """Remember this point, so that ``reuse`` can come back to it. Cheap; call it at message boundaries."""
        if not self.marks or self.marks[-1].length < self.cache.length:
            self.marks = [*self.marks[1 - MARKS :], self.cache.mark()]

    def reusable(self, prompt: list[int]) -> int:
        """How many ids of ``prompt`` need not be read: up to the furthest point from which it can be continued.

        At least one id is left to read, for its logits.
        """
        common = min(common_length(self.ids, prompt), len(prompt) - 1)
        if common == len(self.ids):
            return common
        return max((mark.length for mark in self.marks if mark.length <= common), default=0)

    def reuse(self, prompt: list[int]) -> int:
        """Go back to that point; as ``reusable``."""
        length = self.reusable(prompt)
        if length < len(self.ids):
            self.marks = [mark for mark in self.marks if mark.length <= length]
            if self.marks:
                self.cache.rewind(self.marks[-1])
            else:
                self.cache = KVCache.empty(self.model.config)
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
        """Prefill ``prompt`` (all of the sequence, its read beginning included); the logits [1, V] after its last id.

        ``progress`` is told (read, total) after each chunk. Raises ContextLengthError before any work, Cancelled
        between chunks once ``cancelled`` says so, and EngineError for a chunk that gives anything but finite numbers:
        it is not kept, so that nothing goes on from it.
        """
        limit = self.model.config.max_position_embeddings
        if len(prompt) > limit:
            raise ContextLengthError(
                f"the prompt has {len(prompt):,} tokens, the model's context holds {limit:,}; shorten it"
            )
        self.reuse(prompt)
        while True:
            if cancelled is not None and cancelled():
                raise Cancelled
            part = prompt[len(self.ids) : len(self.ids) + chunk]
            with self.undone_on_error():
                whole = self.model(mx.array([part]), self.cache)
                x, witness = whole[:, -1:], ops.witness(whole.reshape(1, -1))
                mx.eval(x, witness, self.cache.arrays())
                if not math.isfinite(witness.item()):  # type: ignore[arg-type]
                    raise EngineError(NOT_FINITE)
                self.ids += part
            if progress is not None:
                progress(len(self.ids), len(prompt))
            if len(self.ids) == len(prompt):
                return self.model.logits(x)[:, 0]

    def back_to_mark(self) -> None:
        """Forget what was read after the last mark: of a step in flight that failed nobody knows how far it came."""
        mark = self.marks[-1] if self.marks else KVCache.empty(self.model.config)
        self.cache.rewind(mark)
        del self.ids[mark.length :]

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Layers are extended one by one: an error, Ctrl-C included, must not leave some of them ahead of the rest.

        Raises EngineError in place of what MLX raises.
        """
        mark, count = self.cache.mark(), len(self.ids)
        try:
            yield
        except BaseException as error:
            self.cache.rewind(mark)
            del self.ids[count:]
            if isinstance(error, RuntimeError | MemoryError):
                raise EngineError(f"the model cannot be run: {one_line(error)}") from error
            raise


def common_length(a: list[int], b: list[int]) -> int:
    """How many ids both begin with."""
    if a == b[: len(a)]:
        return len(a)
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
