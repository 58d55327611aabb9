"""Rank 0: a decoder whose later layers are elsewhere, and caches that other ranks have a part of.

The engine uses them as it uses any decoder and any cache. That is why they are of these classes: a step goes on to the
other ranks where it leaves the own layers, and what is done to a cache here is said there, in the same order. Other
ranks know a cache by its number.
"""

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import FrameType
from typing import Any

import mlx.core as mx

from gptoss_mlx.distributed import group as ring
from gptoss_mlx.distributed.ranks import Ranks
from gptoss_mlx.distributed.wire import RING_ERROR
from gptoss_mlx.model.cache import KVCache, LayerCache
from gptoss_mlx.model.decoder import Decoder, Step

LOSS_SECONDS = 3.0
"""How long the thread that has lost a rank may take to say so and to end this process."""


@dataclass(eq=False)
class Orders:
    """What the other ranks are told. What is done to caches is told with the next step, before it."""

    ranks: Ranks
    group: mx.distributed.Group
    _noted: list[list[Any]] = field(default_factory=list, init=False)
    _dropped: "deque[int]" = field(default_factory=deque, init=False)
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    def new(self, *how: Any) -> int:
        """Note that a cache is made, by the name and the arguments of a step of ``following``. Return its number."""
        number = next(self._numbers)
        self.note(*how, number)
        return number

    def note(self, *step: Any) -> None:
        self._noted.append(list(step))

    def forget(self, number: int) -> None:
        """Note that nothing here holds a cache any more. Any thread may call this, at any time."""
        self._dropped.append(number)

    def through(self, x: mx.array, name: str, caches: Sequence[KVCache]) -> mx.array:
        """Pass x [..., H] float32 through the layers of all other ranks, and return it. What is sent and what is told
        belong together, so no signal comes between."""
        with _uninterrupted():
            mx.async_eval(ring.sent_on(x, self.group))
            dropped = [["drop", self._dropped.popleft()] for _ in range(len(self._dropped))]
            noted, self._noted = self._noted, []
            numbers = [cache.number for cache in caches if isinstance(cache, SpreadCache)]
            self.ranks.tell([*noted, *dropped, [name, numbers, x.shape]])
            passed = ring.received(x.shape, self.group)
            mx.async_eval(passed)  # even if nobody wants it in the end, because the next reception comes after it
        if name == "read":
            ring.wait_for(passed)
        return passed


class SpreadCache(KVCache):
    """The own layers of a cache, or of a mark, that other ranks know as ``number``."""

    def __init__(self, layers: list[LayerCache], orders: Orders, number: int) -> None:
        super().__init__(layers)
        self.number = number
        self._orders = orders

    def mark(self) -> "SpreadCache":
        """Return a state for ``rewind``, here and on the other ranks."""
        return self._with(super().mark(), "mark")

    def shared(self) -> "SpreadCache":
        """Return a second cache in the same state, here and on the other ranks."""
        return self._with(super().shared(), "share")

    def rewind(self, mark: KVCache) -> None:
        """Forget every position after ``mark``, here and on the other ranks."""
        assert isinstance(mark, SpreadCache)
        if str(sys.exception() or "").startswith(RING_ERROR):
            time.sleep(LOSS_SECONDS)  # a rank is gone, and a thread is about to say which and to end this process
        with _uninterrupted():
            super().rewind(mark)
            self._orders.note("rewind", self.number, mark.number)

    def _with(self, own: KVCache, how: str) -> "SpreadCache":
        return SpreadCache(own.layers, self._orders, self._orders.new(how, self.number))

    def __del__(self) -> None:
        self._orders.forget(self.number)


@dataclass
class FirstRank(Decoder):
    """Rank 0's layers, and through ``orders`` those of the others. ``config`` is that of the own layers."""

    orders: Orders

    def cache(self) -> KVCache:
        """Return a cache that has seen nothing, here and on the other ranks."""
        return SpreadCache(super().cache().layers, self.orders, self.orders.new("new"))

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] as a decoder does, through the layers of all ranks."""
        return self.orders.through(super().__call__(tokens, cache), "read", [cache])

    def decode(self, tokens: mx.array, caches: Sequence[KVCache]) -> Step:
        """Read next tokens [T] as a decoder does, through the layers of all ranks. Where experts are paged, what the
        own layers miss is read before the step goes on."""
        step = super().decode(tokens, caches)
        while step.repeat():
            pass
        step.x = self.orders.through(step.x, "step", caches)
        return step


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals that raise an exception wait until the end of the block. Only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for missed in came:
            signal.raise_signal(missed)
