"""Beginnings of prompts that were read once and need not be read again: exact ids to caches, least used out first.

A beginning is found by its ids alone, so it serves whoever asks: another row of a batch, another conversation. It holds
for one loaded model. Nothing kept here is ever written: a context that goes on from one extends copies.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from gptoss_mlx.engine.context import Context
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder


@dataclass
class PrefixCache:
    """At most ``budget`` bytes of caches, in the order of their last use."""

    model: Decoder
    budget: int
    _kept: OrderedDict[tuple[int, ...], KVCache] = field(default_factory=OrderedDict)

    def start(self, prompt: list[int]) -> Context:
        """A context that has read the longest beginning of ``prompt`` kept here; one id at least is left to read."""
        for length in sorted({len(ids) for ids in self._kept}, reverse=True):
            ids = tuple(prompt[:length])
            if length < len(prompt) and ids in self._kept:
                self._kept.move_to_end(ids)
                context = Context(self.model, self._kept[ids].shared(), list(ids))
                context.mark()
                return context
        return Context.empty(self.model)

    def keep(self, context: Context) -> None:
        """Keep what ``context`` has read. Drops those unused longest until all fit; one too large is not kept."""
        ids = tuple(context.ids)
        cache = context.cache.shared()
        if not ids or _nbytes(cache) > self.budget:
            return
        self._kept[ids] = cache
        self._kept.move_to_end(ids)
        while self.nbytes > self.budget:
            self._kept.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(map(_nbytes, self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)


def _nbytes(cache: KVCache) -> int:
    return sum(array.nbytes for array in cache.arrays())
