"""Prefixes of prompts that were read once and need not be read again, found by their exact ids.

A prefix is found by the model that read it and by its ids alone, so another row of a batch, another conversation, or a
chat that returns to an earlier setting can resume from it. Nothing kept here is ever overwritten, because a context
that resumes from a mark extends copies.

A trunk is what one context has read, with its marks. The marks of one trunk share the keys and values of full layers
and differ in their sliding windows only. So memory is counted, and freed, by whole trunks.

With ``snapshots`` what is dropped goes to disk, and a prompt resumes from there too, in this process or a later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gptoss_mlx.engine.context import Context, common_length
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder

LOADING = 32
"""How many times faster a snapshot is loaded than read, at least: 20b's are 24 kB a token, so that a disk of 1.5 GB/s
loads 60,000 tokens a second, and no Mac reads 2,000."""


@dataclass(eq=False)
class _Trunk:
    """A cache that has read ``ids``, and its marks by their length, in rising order. ``nbytes`` are those of all its
    arrays. ``saved`` says that it was handed over to the disk."""

    model_key: str
    ids: list[int]
    cache: KVCache
    marks: dict[int, KVCache]
    nbytes: int
    saved: bool = False

    def longest_mark(self, length: int) -> int:
        """Return the length of the last mark up to ``length``, 0 if there is none."""
        return max((at for at in self.marks if at <= length), default=0)


@dataclass
class PrefixCache:
    """At most ``budget`` bytes of trunks. The least recently used are dropped first. Several models may share one
    cache, and so one budget. Each uses it through its own PrefixView."""

    budget: int
    snapshots: Snapshots | None = None
    _trunks: list[_Trunk] = field(default_factory=list)  # least recently used first

    @property
    def nbytes(self) -> int:
        """Return the bytes held now."""
        return sum(trunk.nbytes for trunk in self._trunks)

    def __len__(self) -> int:
        return len(self._trunks)

    def _find(self, model_key: str, prompt: list[int]) -> tuple[int, _Trunk | None]:
        """Return the length of the longest proper prefix of ``prompt`` that has a mark, and the trunk of that mark."""
        wanted = prompt[:-1]
        own = [trunk for trunk in self._trunks if trunk.model_key == model_key]
        found = [(length, one) for one in own if (length := one.longest_mark(common_length(one.ids, wanted)))]
        return max(found, key=lambda each: each[0], default=(0, None))

    def _add(self, model_key: str, context: Context, cache: KVCache) -> bool:
        """Take ``cache``, which is in the state of ``context.cache``, as a trunk, rewound to the last mark. Drop the
        trunks unused longest while the budget is exceeded. Return False, and take nothing, if ``context`` has no mark
        or is larger than the budget. In that case it goes to disk."""
        # An array is counted once, because marks share arrays with their cache.
        nbytes = sum({id(a): a.nbytes for held in (cache, *context.marks) for a in held.arrays()}.values())
        if not context.marks:
            return False
        if nbytes > self.budget:
            self._save(model_key, context.ids, context.cache, context.marks)
            return False
        last = context.marks[-1]
        cache.rewind(last)
        marks = {mark.length: mark for mark in context.marks}
        trunk = _Trunk(model_key, context.ids[: last.length], cache, marks, nbytes)
        for other in [other for other in self._trunks if other.model_key == model_key]:
            # A prefix belongs to the latest trunk that has a mark there. One without marks can never be found.
            common = common_length(other.ids, trunk.ids)
            other.marks = {at: mark for at, mark in other.marks.items() if at > common or at not in trunk.marks}
            if not other.marks:
                self._trunks.remove(other)
        self._trunks.append(trunk)
        while self.nbytes > self.budget:
            self._save_trunk(self._trunks.pop(0))
        return True

    def write(self) -> bool:
        """Hand over to the disk what is kept and is not there, as far as that takes no waiting. Return whether that was
        all. Call it again and again where nobody waits, so that nothing is left to do when memory is needed."""
        for trunk in self._trunks:
            trunk.saved = trunk.saved or self._save_trunk(trunk, wait=False)
        return all(trunk.saved for trunk in self._trunks)

    def close(self) -> None:
        """Write to disk what is kept, and wait for it."""
        for trunk in self._trunks:
            self._save_trunk(trunk)
        if self.snapshots is not None:
            self.snapshots.writer.close()

    def notice(self) -> str | None:
        """Return, once, why nothing more is written to disk, or None."""
        return None if self.snapshots is None else self.snapshots.writer.notice()

    def _save(
        self, model_key: str, ids: list[int], cache: KVCache, marks: Sequence[KVCache], *, wait: bool = True
    ) -> bool:
        return self.snapshots is None or self.snapshots.save(model_key, ids, cache, marks, wait=wait)

    def _save_trunk(self, trunk: _Trunk, *, wait: bool = True) -> bool:
        return self._save(trunk.model_key, trunk.ids, trunk.cache, list(trunk.marks.values()), wait=wait)


@dataclass(frozen=True)
class PrefixView:
    """What one model has read, as far as ``prefixes`` keeps it. ``model_key`` names its weights and its keys' dtype."""

    prefixes: PrefixCache
    model: Decoder
    model_key: str

    def reusable(self, context: Context, prompt: list[int]) -> int:
        """Return how many ids of ``prompt`` need not be read if it resumes from ``context`` or from what is kept."""
        length, _ = self.prefixes._find(self.model_key, prompt)
        known = max(context.reusable(prompt), length)
        return max([known, *self._worth_loading(prompt, known)])

    def resume(self, context: Context, prompt: list[int]) -> Context:
        """Return the context to continue ``prompt`` from: ``context`` rewound, a copy of a longer kept prefix, one from
        disk, or an empty one. Use the returned context only, because ``context`` may have lost what it read. If
        rewinding would drop more marked ids than it keeps, as after a change of a setting at the very beginning, the
        prefix cache takes ``context`` over for a later return to it."""
        own = context.reusable(prompt)
        lost = context.marks[-1].length - own if context.marks else 0
        if lost > own and self.prefixes._add(self.model_key, context, context.cache):
            context = Context.empty(self.model)
            own = 0
        length, trunk = self.prefixes._find(self.model_key, prompt)
        for saved in self._worth_loading(prompt, max(own, length)):
            assert self.prefixes.snapshots is not None
            self.save(context)
            context.forget()  # because memory has no room for both
            own = 0
            loaded = self.prefixes.snapshots.load(self.model_key, self.model, prompt, saved)
            if loaded is not None:
                return loaded
        if trunk is not None and length > own:
            self.prefixes._trunks.remove(trunk)
            self.prefixes._trunks.append(trunk)
            cache = trunk.cache.shared()
            cache.rewind(trunk.marks[length])
            return Context(self.model, cache, prompt[:length], [m for at, m in trunk.marks.items() if at <= length])
        context.rewind(prompt)
        return context

    def keep(self, context: Context) -> None:
        """Keep a copy of what ``context`` has read, up to its last mark, if the budget has room for it. ``context``
        stays the caller's."""
        self.prefixes._add(self.model_key, context, context.cache.shared())

    def save(self, context: Context) -> None:
        """Write to disk what ``context`` has read, up to its last mark. Call it after a reply: the disk then has it
        before the memory is needed, and also after a kill."""
        self.prefixes._save(self.model_key, context.ids, context.cache, context.marks)

    def _worth_loading(self, prompt: list[int], known: int) -> list[int]:
        """Return the lengths of snapshots on disk that are loaded faster than what they add to ``known`` ids is read,
        the longest first."""
        if self.prefixes.snapshots is None:
            return []
        lengths = self.prefixes.snapshots.lengths(self.model_key, prompt)
        return [length for length in lengths if (length - known) * LOADING > length]
