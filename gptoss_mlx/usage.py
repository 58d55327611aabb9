"""Counting what one message costs: tokens, seconds and repairs, over all the replies it takes. Knows no model."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gptoss_mlx.reply import Reply


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of tokens and seconds of one ``send``, over all the replies that calls of tools make of it.

    ``prompt_tokens`` are those of the last and longest prompt, ``cached_tokens`` those of the first that had been read
    before. ``completion_tokens`` were generated, of which ``thought_tokens`` are thoughts. ``time_to_first_token``, in
    seconds, is None if nothing came. ``tokens_per_second`` is the rate from the first token to the last, without the
    time that tools took.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int
    seconds: float
    time_to_first_token: float | None
    tokens_per_second: float


@dataclass
class Meter:
    """The replies to one ``send``, the times of its start, of its first and last generated token, and the seconds for
    which it waited for tools between these two and after them."""

    replies: list[Reply] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    waited: float = 0.0
    waited_since: float = 0.0

    def count_token(self) -> None:
        """Note the time of a generated token."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.waited += self.waited_since
        self.waited_since = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for tools."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited_since += time.perf_counter() - began

    def usage(self) -> Usage:
        """Return the counts over all replies, of which there must be one. Of prompts, the last and largest counts."""
        tokens = sum(reply.completion_tokens for reply in self.replies)
        between = self.last - (self.first or self.last) - self.waited
        return Usage(
            prompt_tokens=self.replies[-1].prompt_tokens,
            cached_tokens=self.replies[0].cached_tokens,
            completion_tokens=tokens,
            thought_tokens=sum(reply.thought_tokens for reply in self.replies),
            seconds=time.perf_counter() - self.started,
            time_to_first_token=None if self.first is None else self.first - self.started,
            tokens_per_second=(tokens - 1) / between if between > 0 else 0.0,
        )

    def repairs(self) -> dict[str, int]:
        """Return the repairs of all replies, by kind."""
        return dict(sum((Counter(reply.repairs) for reply in self.replies), Counter[str]()))
