"""The KV cache: what attention has seen, layer by layer, in a form that decoding never copies.

A layer holds a ``body``, never written while a step may still read it, and a ``tail`` of the latest positions, made
anew at each decode step. A full tail moves into the body. In full layers that writes in place, into room kept for it;
sliding layers keep only their window. So a step copies one tail a layer, however long the context: MLX writes an array
in place only while nothing else holds it, and a step in flight holds all it reads.

``length`` is always a count of positions seen; ``rows`` count what is kept. Knows nothing of token ids or text.
"""

from dataclasses import dataclass, field, replace

import mlx.core as mx

from gptoss_mlx.config import SLIDING, ModelConfig

TAIL = 64
"""Rows of a tail."""

GROWTH = 256
"""Rows a full layer's body grows by at least: one allocation every so many tokens."""

SHARE = 24
"""It grows by a 24th: 4% lie unused at most, and a token's part in the copying is 24 rows, less than a tail."""


@dataclass
class LayerCache:
    """One layer: all positions, or with ``window`` at least the last ``window - 1``, which is what a query sees beside
    its own.

    ``body`` [2, B, M, capacity, D] holds keys and values of ``body_rows`` positions, ``tail`` [2, B, M, TAIL, D] those
    of the ``tail_rows`` after them. What lies beyond those rows has no meaning. ``counts`` are the two, for shaders.
    """

    window: int | None = None
    length: int = 0
    body: mx.array | None = None
    body_rows: int = 0
    tail: mx.array | None = None
    tail_rows: int = 0
    counts: mx.array | None = None

    def append(self, kv: mx.array) -> tuple[mx.array, mx.array]:
        """Add L positions, kv [2, B, M, L, D], to the body, whatever the tail holds.

        Returns keys and values of those any of the new ones may see, [B, M, P, D] each, the new ones last.
        """
        self.flush()
        self.length += kv.shape[3]
        seen = self._add(kv)
        return seen[0], seen[1]

    def prepared(self) -> tuple[mx.array, mx.array, mx.array, int]:
        """What an attention step reads: body, tail, the rows of each as an array, and their sum."""
        assert self.body is not None, "not prepared"
        assert self.tail is not None
        assert self.counts is not None
        return self.body, self.tail, self.counts, self.body_rows + self.tail_rows

    def advance(self, tail: mx.array, count: int) -> None:
        """Take the tail that an attention step made by adding ``count`` positions to the last one."""
        self.tail, self.tail_rows, self.length = tail, self.tail_rows + count, self.length + count

    def flush(self) -> None:
        """Move the tail into the body."""
        if self.tail is not None and self.tail_rows:
            count, self.tail_rows = self.tail_rows, 0
            self._add(self.tail[:, :, :, :count])

    def _add(self, kv: mx.array) -> mx.array:
        """Add rows to the body; those it held and the new ones, [2, B, M, P, D]."""
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
        """A state to go back to, sharing arrays. A full layer's body is left out: of the mark's rows none is written
        again, only those after them, and to hold it would be to copy it."""
        return replace(self, body=None) if self.window is None else replace(self)

    def rewind(self, mark: "LayerCache") -> None:
        """Be as at ``mark``, whatever has been tried since: a step that failed may have left a tail of anything."""
        body = self.body if self.window is None else mark.body
        vars(self).update(vars(mark), body=body)

    def held(self) -> mx.array | None:
        """Keys and values of all that a later query may see, [2, B, M, rows, D]; None where that is nothing."""
        parts = [
            array[:, :, :, :rows]
            for array, rows in ((self.body, self.body_rows), (self.tail, self.tail_rows))
            if array is not None and rows
        ]
        if not parts or self.window == 1:
            return None
        whole = mx.concatenate(parts, axis=3)
        return whole if self.window is None else _last(whole, self.window - 1)


@dataclass
class KVCache:
    """One sequence's (or one batch's) cache, a layer object for each layer of the model."""

    layers: list[LayerCache] = field(default_factory=list)

    @classmethod
    def empty(cls, config: ModelConfig) -> "KVCache":
        return cls([LayerCache(config.sliding_window if kind == SLIDING else None) for kind in config.layer_types])

    @property
    def length(self) -> int:
        """Positions seen."""
        return self.layers[0].length

    def prepare(self, count: int, config: ModelConfig, dtype: mx.Dtype) -> None:
        """Have room in every tail for ``count`` more positions of one sequence."""
        if any(layer.tail_rows + count > TAIL for layer in self.layers):
            mx.synchronize()  # else a step in flight would hold the bodies, and each would be copied whole
            for layer in self.layers:
                layer.flush()
            mx.eval(self.arrays())
        heads, dim, counts = config.num_key_value_heads, config.head_dim, dict[tuple[int, int], mx.array]()
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
        """A state ``rewind`` can return to, as long as nothing before it is rewound and extended otherwise."""
        return KVCache([layer.mark() for layer in self.layers])

    def rewind(self, mark: "KVCache") -> None:
        """Forget every position after ``mark``."""
        for layer, old in zip(self.layers, mark.layers, strict=True):
            layer.rewind(old)

    def shared(self) -> "KVCache":
        """A cache in the same state, to be extended apart from this one: each copies what it shares when it writes."""
        other = KVCache([replace(layer) for layer in self.layers])
        mx.eval(other.arrays())
        return other

    def held(self) -> dict[str, mx.array]:
        """What is held, by layer, without the room to grow: enough for ``restored``."""
        held = {f"{number}.kv": layer.held() for number, layer in enumerate(self.layers)}
        return {name: array for name, array in held.items() if array is not None}

    @classmethod
    def restored(cls, config: ModelConfig, length: int, held: dict[str, mx.array], dtype: mx.Dtype) -> "KVCache":
        """The cache of ``dtype`` that ``held`` was taken from, ``length`` positions seen.

        Raises ValueError when ``held`` is not what such a cache holds.
        """
        cache = cls.empty(config)
        for number, layer in enumerate(cache.layers):
            rows = length if layer.window is None else min(length, layer.window - 1)
            shape = (2, 1, config.num_key_value_heads, rows, config.head_dim)
            array = held.get(f"{number}.kv", None if rows else mx.zeros(shape, dtype))
            if array is None or array.shape != shape or array.dtype != dtype:
                raise ValueError(f"layer {number} does not hold {rows} positions in {dtype}")
            layer.body, layer.body_rows, layer.length = mx.contiguous(array), rows, length
        return cache

    def arrays(self) -> list[mx.array]:
        """Everything held, for evaluation: an unevaluated cache keeps a graph that grows with every step."""
        return [array for layer in self.layers for array in (layer.body, layer.tail) if array is not None]


def _last(kv: mx.array, count: int) -> mx.array:
    """The last ``count`` rows of kv [2, B, M, L, D], or as many as there are."""
    return kv[:, :, :, max(0, kv.shape[3] - count) :]


def _written(buffer: mx.array | None, rows: mx.array, start: int) -> mx.array:
    """``buffer`` with ``rows`` [2, B, M, L, D] from row ``start`` on: in place, where there is room and nothing else
    holds it."""
    *outer, L, D = rows.shape
    capacity = 0 if buffer is None else buffer.shape[3]
    if start + L > capacity:
        room = mx.zeros((*outer, max(start + L - capacity, GROWTH, capacity // SHARE), D), rows.dtype)
        buffer = room if buffer is None else mx.concatenate([buffer, room], axis=3)
    assert buffer is not None
    return mx.slice_update(buffer, rows, mx.array([start]), (3,))
