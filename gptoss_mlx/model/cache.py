"""The KV cache: keys and values of the positions seen, layer by layer, in a form that decoding never copies.

A layer holds a ``body`` and a ``tail`` of the latest positions. A decode step never writes to the body, because a step
in flight may still read it. A shader makes a new tail; the CPU library writes into the one there is, behind its last
row. So no row of a tail is ever overwritten, and a tail has one writer: a cache that rewinds to a mark, or shares
another's state, goes on with a copy, and a full tail is not used again. It moves into the body. In full layers that
writes in place, into room kept for it; sliding layers keep only their window. So a step copies at most one tail a
layer, however long the context. MLX writes an array in place only if nothing else holds it, and a step in flight holds
all it reads.

``length`` is always a count of positions seen; ``rows`` count what is kept. Knows no token ids and no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import mlx.core as mx

from gptoss_mlx.config import SLIDING, ModelConfig
from metal_kernels.operands import CacheView

TAIL = 64
"""Rows of a tail."""

GROWTH = 256
"""The fewest rows a full layer's body grows by: one allocation every so many tokens."""

SHARE = 24
"""A body grows by a 24th. So at most 4% is unused, and growing copies 24 rows a token on average, less than a tail."""


@dataclass
class LayerCache:
    """One layer: all positions, or with ``window`` at least the last ``window - 1``, which a query sees beside its own.

    ``body`` [2, B, M, capacity, D] holds keys and values of ``body_rows`` positions, ``tail`` [2, B, M, TAIL, D] those
    of the next ``tail_rows``. Rows past these may hold anything. ``counts`` [2] int32 holds both numbers.
    """

    window: int | None = None
    length: int = 0
    body: mx.array | None = None
    body_rows: int = 0
    tail: mx.array | None = None
    tail_rows: int = 0
    counts: mx.array | None = None

    def append(self, kv: mx.array) -> tuple[mx.array, mx.array]:
        """Move the tail into the body, and add L positions to it, kv [2, B, M, L, D].

        Returns keys and values [B, M, P, D] of the positions that any of the new ones may see, the new ones last.
        """
        self.flush()
        self.length += kv.shape[3]
        seen = self._add(kv)
        keys, values = mx.split(seen, 2)  # an index by an integer would copy all of them
        return keys.squeeze(0), values.squeeze(0)

    def view(self) -> CacheView:
        """Return what a decode step reads. :meth:`KVCache.prepare` comes first."""
        assert self.body is not None, "not prepared"
        assert self.tail is not None
        assert self.counts is not None
        return CacheView(self.body, self.tail, self.counts, self.body_rows + self.tail_rows)

    def advance(self, tail: mx.array, count: int) -> None:
        """Replace the tail by one, or by itself, to which a decode step has added ``count`` positions."""
        self.tail = tail
        self.tail_rows += count
        self.length += count

    def retract(self, count: int) -> None:
        """Forget the ``count`` positions that the last ``advance`` added, for a step that is computed again. No mark
        may have been made since."""
        self.tail_rows -= count
        self.length -= count

    def flush(self) -> None:
        """Move the tail into the body."""
        if self.tail is not None and self.tail_rows:
            self._add(self.tail[:, :, :, : self.tail_rows])
            self.tail = None
            self.tail_rows = 0

    def _add(self, kv: mx.array) -> mx.array:
        """Add rows to the body. Return those it held and the new ones, [2, B, M, P, D]."""
        if self.window is None:
            self.body = _written(self.body, kv, self.body_rows)
            self.body_rows += kv.shape[3]
            return self.body[:, :, :, : self.body_rows]
        if self.body is not None and self.body_rows:
            kv = mx.concatenate([self.body[:, :, :, : self.body_rows], kv], axis=3)
        self.body = mx.contiguous(_last(kv, self.window - 1))
        self.body_rows = self.body.shape[3]
        return kv

    def mark(self) -> "LayerCache":
        """Return a state to rewind to. It shares arrays with this one.

        A full layer's body is left out: rows before the mark are never overwritten, and a second reference would make
        MLX copy the body on the next write.
        """
        return replace(self, body=None) if self.window is None else replace(self)

    def rewind(self, mark: "LayerCache") -> None:
        """Return to the state of ``mark``, with a tail of its own, because later marks may hold the present one."""
        body = self.body if self.window is None else mark.body
        vars(self).update(vars(mark), body=body, tail=_copied(mark.tail))

    def held(self, first: int = 0, last: int | None = None) -> mx.array | None:
        """Return keys and values that a later query may see, [2, B, M, rows, D], or None if there are none. Of a full
        layer, return those of the positions from ``first`` up to ``last``."""
        last = self.body_rows + self.tail_rows if last is None else last
        parts = []
        start = 0
        for array, rows in ((self.body, self.body_rows), (self.tail, self.tail_rows)):
            low, high = max(first - start, 0), min(last - start, rows)
            if array is not None and low < high:
                parts.append(array[:, :, :, low:high])
            start += rows
        if not parts or self.window == 1:
            return None
        whole = mx.concatenate(parts, axis=3)
        return whole if self.window is None else _last(whole, self.window - 1)


@dataclass
class KVCache:
    """The cache of one sequence or of one batch: a layer object for each layer of the model."""

    layers: list[LayerCache] = field(default_factory=list)

    @classmethod
    def empty(cls, config: ModelConfig) -> "KVCache":
        """Return a cache that has seen nothing."""
        return cls([LayerCache(config.sliding_window if kind == SLIDING else None) for kind in config.layer_types])

    @property
    def length(self) -> int:
        """The number of positions seen."""
        return self.layers[0].length

    def prepare(self, count: int, config: ModelConfig, dtype: mx.Dtype) -> None:
        """Make room in every tail for ``count`` more positions of one sequence, and fill in what ``view`` needs."""
        if any(layer.tail_rows + count > TAIL for layer in self.layers):
            mx.synchronize()  # a step in flight would hold the bodies, and MLX would copy each of them
            for layer in self.layers:
                layer.flush()
            mx.eval(self.arrays())
        heads = config.num_key_value_heads
        dim = config.head_dim
        counts: dict[tuple[int, int], mx.array] = {}
        for layer in self.layers:
            if layer.body is None:
                layer.body = mx.zeros((2, 1, heads, GROWTH if layer.window is None else 1, dim), dtype)
            if layer.tail is None:
                layer.tail = mx.zeros((2, 1, heads, TAIL, dim), dtype)
            rows = (layer.body_rows, layer.tail_rows)
            layer.counts = counts.get(rows)
            if layer.counts is None:
                layer.counts = counts[rows] = mx.array(rows, mx.int32)

    def mark(self) -> "KVCache":
        """Return a state for ``rewind``. It is void once the cache is rewound to an earlier mark and extended from
        there."""
        return KVCache([layer.mark() for layer in self.layers])

    def rewind(self, mark: "KVCache") -> None:
        """Forget every position after ``mark``."""
        for layer, old in zip(self.layers, mark.layers, strict=True):
            layer.rewind(old)

    def shared(self) -> "KVCache":
        """Return a second cache in the same state, with tails of its own. Each of the two copies the bodies they share
        when it writes to them."""
        other = KVCache([replace(layer, tail=_copied(layer.tail)) for layer in self.layers])
        mx.eval(other.arrays())
        return other

    def at(self, mark: "KVCache") -> "KVCache":
        """Return the state of ``mark``, a mark of this cache, to read from. It shares all arrays with both, so drop it
        before either is extended."""
        return KVCache(
            [
                replace(old, body=layer.body) if layer.window is None else old
                for layer, old in zip(self.layers, mark.layers, strict=True)
            ]
        )

    def kept(self, first: int = 0) -> list[mx.array]:
        """Return the rows of each layer that has any, without room to grow: what ``restored`` takes. Of full layers,
        return those from position ``first`` on."""
        found = [layer.held(first) if layer.window is None else layer.held() for layer in self.layers]
        return [array for array in found if array is not None]

    def full_rows(self, first: int, last: int) -> list[mx.array]:
        """Return keys and values of the positions from ``first`` up to ``last`` in each full layer."""
        found = [layer.held(first, last) for layer in self.layers if layer.window is None]
        return [array for array in found if array is not None]

    @classmethod
    def restored(cls, config: ModelConfig, length: int, kept: Sequence[mx.array]) -> "KVCache":
        """Return a cache that has seen ``length`` positions, of which every layer has ``kept`` rows [2, 1, M, rows,
        D]."""
        cache = cls.empty(config)
        for layer, rows in zip(cache.layers, kept, strict=True):
            layer.body = mx.contiguous(rows)
            layer.body_rows = rows.shape[3]
            layer.length = length
        return cache

    def arrays(self) -> list[mx.array]:
        """Return all arrays, for evaluation: an unevaluated cache keeps a graph that grows with every step."""
        return [array for layer in self.layers for array in (layer.body, layer.tail) if array is not None]


def _copied(tail: mx.array | None) -> mx.array | None:
    """Return an array of its own with the same values. Multiplication makes one, where MLX's copies share memory."""
    return None if tail is None else tail * 1


def _last(kv: mx.array, count: int) -> mx.array:
    """Return the last ``count`` rows of kv [2, B, M, L, D], or all if there are fewer."""
    return kv[:, :, :, max(0, kv.shape[3] - count) :]


def _written(buffer: mx.array | None, rows: mx.array, start: int) -> mx.array:
    """Write ``rows`` [2, B, M, L, D] into ``buffer`` from row ``start`` on, and return it. MLX writes in place if there
    is room and nothing else holds the buffer."""
    *outer, L, D = rows.shape
    capacity = 0 if buffer is None else buffer.shape[3]
    if start + L > capacity:
        room = mx.zeros((*outer, max(start + L - capacity, GROWTH, capacity // SHARE), D), rows.dtype)
        buffer = room if buffer is None else mx.concatenate([buffer, room], axis=3)
    assert buffer is not None
    return mx.slice_update(buffer, rows, mx.array([start]), (3,))
