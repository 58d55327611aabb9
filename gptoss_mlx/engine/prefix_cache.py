"""Beginnings of prompts that were read once and need not be read again: a trie from exact ids to checkpoints.

A beginning is found by the model that read it and its ids alone, so it serves whoever asks: another row of a batch,
another conversation, a chat that comes back to an earlier setting. Nothing kept here is ever written: a context that
goes on from a checkpoint extends copies.

What one context has read is kept as one trunk, with a checkpoint at each of its marks. Checkpoints of one trunk share
the keys and values of full layers and differ in their sliding windows only, so a trunk is what memory is counted in,
and what leaves as a whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gptoss_mlx.engine.context import Context, common_length
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder


@dataclass(eq=False)
class _Trunk:
    """A cache that has read ``ids``, and the points of it at which reading can go on, by their length."""

    model_key: str
    ids: list[int]
    cache: KVCache
    marks: dict[int, KVCache]
    nbytes: int


@dataclass(eq=False)
class _Node:
    """A point in the trie: ``ids`` lead to it from its parent, ``children`` are known by their first id.

    ``trunk`` has a mark here; None where ways only part.
    """

    ids: list[int] = field(default_factory=list)
    children: "dict[int, _Node]" = field(default_factory=dict)
    trunk: _Trunk | None = None


@dataclass
class PrefixCache:
    """At most ``budget`` bytes of trunks; those unused longest leave first.

    ``model_key`` names weights and cache dtype. Models may share one cache, and so one budget: they find nothing of
    each other's.
    """

    budget: int
    _roots: dict[str, _Node] = field(default_factory=dict)
    _trunks: list[_Trunk] = field(default_factory=list)  # in the order of their last use

    def reusable(self, model_key: str, prompt: list[int]) -> int:
        """How many ids of ``prompt`` need not be read; one at least is left to read, for its logits."""
        return self._find(model_key, prompt)[0]

    def start(self, model: Decoder, model_key: str, prompt: list[int]) -> Context:
        """A context that has read the longest beginning of ``prompt`` kept here, or nothing."""
        length, trunk = self._find(model_key, prompt)
        if trunk is None:
            return Context.empty(model)
        self._trunks.remove(trunk)
        self._trunks.append(trunk)
        cache = trunk.cache.shared()
        cache.rewind(trunk.marks[length])
        marks = [mark for at, mark in trunk.marks.items() if at <= length]
        return Context(model, cache, prompt[:length], marks)

    def go_on(self, model_key: str, context: Context, prompt: list[int]) -> Context:
        """What to read ``prompt`` with in place of ``context``: that itself, taken back as far as it must, or another.

        Where going back would lose more than it leaves, as when a setting at the very beginning has changed,
        ``context`` is kept here instead, for whoever returns to it; it is no longer the caller's.
        """
        own = context.reusable(prompt)
        lost = context.marks[-1].length - own if context.marks else 0
        if lost > own and self._add(model_key, context, context.cache):
            return self.start(context.model, model_key, prompt)
        if self.reusable(model_key, prompt) > own:
            return self.start(context.model, model_key, prompt)
        context.reuse(prompt)
        return context

    def keep(self, model_key: str, context: Context) -> None:
        """Keep what ``context`` has read, up to its last mark. It may itself be used further."""
        self._add(model_key, context, context.cache.shared())

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(trunk.nbytes for trunk in self._trunks)

    def __len__(self) -> int:
        return len(self._trunks)

    def _find(self, model_key: str, prompt: list[int]) -> tuple[int, _Trunk | None]:
        """The longest beginning of ``prompt`` that is a mark of a trunk, and the trunk."""
        found: tuple[int, _Trunk | None] = 0, None
        for length, node in _walk(self._roots.get(model_key, _Node()), prompt[:-1]):
            if node.trunk is not None:
                found = length, node.trunk
        return found

    def _add(self, model_key: str, context: Context, cache: KVCache) -> bool:
        """Keep ``cache``, which is in the state of ``context``'s own. False for one that is too large."""
        nbytes = _nbytes([cache, *context.marks])
        if not context.marks or nbytes > self.budget:
            return False
        last = context.marks[-1]
        cache.rewind(last)
        trunk = _Trunk(model_key, context.ids[: last.length], cache, {}, nbytes)
        root = self._roots.setdefault(model_key, _Node())
        for mark in context.marks:
            # A point belongs to the trunk that came through it last; one that has lost all of its points serves nobody.
            node = _node_at(root, trunk.ids[: mark.length])
            if node.trunk is not None:
                del node.trunk.marks[mark.length]
                if not node.trunk.marks:
                    self._trunks.remove(node.trunk)
            node.trunk, trunk.marks[mark.length] = trunk, mark
        self._trunks.append(trunk)
        while self.nbytes > self.budget:
            self._drop(self._trunks.pop(0))
        return True

    def _drop(self, trunk: _Trunk) -> None:
        path = [(0, self._roots[trunk.model_key]), *_walk(self._roots[trunk.model_key], trunk.ids)]
        for _, node in path:
            if node.trunk is trunk:
                node.trunk = None
        for (_, parent), (_, node) in zip(path[-2::-1], path[:0:-1], strict=True):
            if node.trunk is None and not node.children:
                del parent.children[node.ids[0]]


def _walk(node: _Node, ids: list[int]) -> Iterator[tuple[int, _Node]]:
    """The points on the way along ``ids``, with how many of them lead there."""
    length = 0
    while length < len(ids):
        child = node.children.get(ids[length])
        if child is None or child.ids != ids[length : length + len(child.ids)]:
            return
        node, length = child, length + len(child.ids)
        yield length, node


def _node_at(root: _Node, ids: list[int]) -> _Node:
    """The point that ``ids`` lead to, made where there is none yet."""
    node = root
    while ids:
        child = node.children.get(ids[0])
        if child is None:
            child = node.children[ids[0]] = _Node(ids)
        same = common_length(child.ids, ids)
        if same < len(child.ids):
            upper = node.children[ids[0]] = _Node(child.ids[:same], {child.ids[same]: child})
            child.ids = child.ids[same:]
            child = upper
        node, ids = child, ids[same:]
    return node


def _nbytes(caches: list[KVCache]) -> int:
    """Of the arrays they hold between them; a mark shares what it can with the cache it was taken from."""
    return sum({id(array): array.nbytes for cache in caches for array in cache.arrays()}.values())
