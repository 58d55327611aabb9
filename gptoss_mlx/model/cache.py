"""The KV cache: what attention has seen, layer by layer.

``length`` is always a count of positions seen; ``held`` a count of rows kept. Knows nothing of token ids or text.
"""

from dataclasses import dataclass, field

import mlx.core as mx

from gptoss_mlx.config import SLIDING, ModelConfig

GROWTH = 256
"""Rows a full layer's buffer grows by at least: one allocation every so many tokens."""


@dataclass
class FullLayer:
    """Every position since the start, in a buffer with room to grow. keys, values: [B, M, capacity, D]."""

    length: int = 0
    keys: mx.array | None = None
    values: mx.array | None = None

    def extend(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Add L positions, k and v [B, M, L, D]; return all of them, [B, M, length, D]."""
        start, self.length = self.length, self.length + k.shape[2]
        self.keys = _write(self.keys, k, start)
        self.values = _write(self.values, v, start)
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def mark(self) -> "FullLayer":
        """A state to go back to. Later rows are overwritten, not erased, so it holds a length and no array."""
        return FullLayer(self.length)

    def rewind(self, mark: "FullLayer") -> None:
        self.length = mark.length


@dataclass
class SlidingLayer:
    """The last ``window - 1`` positions: with its own, a query sees ``window``. keys, values: [B, M, held, D]."""

    window: int
    length: int = 0
    keys: mx.array | None = None
    values: mx.array | None = None

    def extend(self, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Add L positions; return those any of the new ones may see, at most window - 1 + L of them."""
        self.length += k.shape[2]
        if self.keys is not None and self.values is not None:
            k, v = mx.concatenate([self.keys, k], axis=2), mx.concatenate([self.values, v], axis=2)
        self.keys, self.values = k[:, :, 1 - self.window :], v[:, :, 1 - self.window :]
        return k, v

    def mark(self) -> "SlidingLayer":
        """A state to go back to: it shares the arrays, which are never written in place."""
        return SlidingLayer(self.window, self.length, self.keys, self.values)

    def rewind(self, mark: "SlidingLayer") -> None:
        self.length, self.keys, self.values = mark.length, mark.keys, mark.values


Layer = FullLayer | SlidingLayer


@dataclass
class KVCache:
    """One sequence's (or one batch's) cache, a layer object for each layer of the model."""

    layers: list[Layer] = field(default_factory=list)

    @classmethod
    def empty(cls, config: ModelConfig) -> "KVCache":
        return cls(
            [SlidingLayer(config.sliding_window) if kind == SLIDING else FullLayer() for kind in config.layer_types]
        )

    @property
    def length(self) -> int:
        """Positions seen."""
        return self.layers[0].length

    def mark(self) -> "KVCache":
        """A state ``rewind`` can return to, as long as nothing before it is rewound and extended otherwise."""
        return KVCache([layer.mark() for layer in self.layers])

    def rewind(self, mark: "KVCache") -> None:
        """Forget every position after ``mark``."""
        for layer, old in zip(self.layers, mark.layers, strict=True):
            layer.rewind(old)  # type: ignore[arg-type]

    def held(self) -> dict[str, mx.array]:
        """What is held, by layer and name, without the room to grow: enough for ``restored``."""
        held = {}
        for number, layer in enumerate(self.layers):
            if layer.keys is not None and layer.values is not None:
                end = layer.length if isinstance(layer, FullLayer) else layer.keys.shape[2]
                held[f"{number}.keys"], held[f"{number}.values"] = layer.keys[:, :, :end], layer.values[:, :, :end]
        return held

    @classmethod
    def restored(cls, config: ModelConfig, length: int, held: dict[str, mx.array], dtype: mx.Dtype) -> "KVCache":
        """The cache of ``dtype`` that ``held`` was taken from, ``length`` positions seen.

        Raises ValueError when ``held`` is not what such a cache holds.
        """
        cache = cls.empty(config)
        for number, layer in enumerate(cache.layers):
            rows = length if isinstance(layer, FullLayer) else min(length, layer.window - 1)
            shape = (1, config.num_key_value_heads, rows, config.head_dim)
            layer.keys, layer.values = held.get(f"{number}.keys"), held.get(f"{number}.values")
            for array in (layer.keys, layer.values):
                if array is None or array.shape != shape or array.dtype != dtype:
                    raise ValueError(f"layer {number} does not hold {rows} positions in {dtype}")
            layer.length = length
        return cache

    def shared(self) -> "KVCache":
        """A cache in the same state, to be extended apart from this one: each copies what it shares when it writes."""
        other = KVCache([layer.mark() for layer in self.layers])
        for layer, own in zip(other.layers, self.layers, strict=True):
            if isinstance(layer, FullLayer) and own.keys is not None and own.values is not None:
                layer.keys, layer.values = own.keys[:, :, : own.length], own.values[:, :, : own.length]
        mx.eval(other.arrays())
        return other

    def arrays(self) -> list[mx.array]:
        """Everything held, for evaluation: an unevaluated cache keeps a graph that grows with every step."""
        return [array for layer in self.layers for array in (layer.keys, layer.values) if array is not None]


def _write(buffer: mx.array | None, rows: mx.array, start: int) -> mx.array:
    B, M, L, D = rows.shape
    capacity = 0 if buffer is None else buffer.shape[2]
    if start + L > capacity:
        # A thirty-second more each time: few copies, and never much held that is not used.
        room = mx.zeros((B, M, max(start + L - capacity, GROWTH, capacity // 32), D), rows.dtype)
        buffer = room if buffer is None else mx.concatenate([buffer, room], axis=2)
    assert buffer is not None
    buffer[:, :, start : start + L] = rows
    return buffer
