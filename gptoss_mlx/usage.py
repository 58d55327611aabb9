"""Counting what one message costs: tokens, seconds and repairs, over all the replies it takes. Knows no model."""

import time
from collections import Counter
from dataclasses import dataclass, field

from gptoss_mlx.reply import Reply


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Counts of tokens and seconds of one ``send``. ``cached_tokens`` of the prompt did not have to be read."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int
    seconds: float
    time_to_first_token: float | None
    tokens_per_second: float


@dataclass
class Meter:
    """Counts of one ``send`` so far. ``first`` and ``last`` are the times of the first and last generated token."""

    started: float = field(default_factory=time.perf_counter)
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    thought: int = 0
    first: float | None = None
    last: float = 0.0
    repairs: Counter[str] = field(default_factory=Counter)

    def count_prompt(self, tokens: int, cached: int) -> None:
        """Note the size of the latest prompt, and how much of the first one was ``cached``."""
        self.cached = self.cached if self.prompt else cached
        self.prompt = tokens

    def count_token(self) -> None:
        """Note the time of a generated token."""
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def count_reply(self, reply: Reply) -> None:
        """Add the tokens and repairs of a finished reply."""
        self.completion += reply.completion_tokens
        self.thought += reply.thought_tokens
        self.repairs.update(reply.repairs)

    def usage(self) -> Usage:
        """Return the counts until now."""
        between = self.last - (self.first or self.last)
        return Usage(
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            completion_tokens=self.completion,
            thought_tokens=self.thought,
            seconds=time.perf_counter() - self.started,
            time_to_first_token=None if self.first is None else self.first - self.started,
            tokens_per_second=(self.completion - 1) / between if between > 0 else 0.0,
        )
