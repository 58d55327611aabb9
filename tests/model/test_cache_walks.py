"""Whatever a cache has been through, it holds what a cache holds that has read its tokens at once.

The native library writes new rows into the tail there is, so a tail that two caches or a cache and a mark extend would
lose rows. Each position has keys and values that no other position of any cache has.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import TAIL, KVCache
from metal_kernels import launch
from metal_kernels.operands import Attention
from tests.metal_kernels.cpu.trials.attention import attention
from tests.metal_kernels.shaders.common import F32
from tests.support.native import architectures

CONFIG = ModelConfig(
    num_hidden_layers=3,
    num_local_experts=4,
    layer_types=("sliding_attention", "full_attention", "sliding_attention"),
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    sliding_window=40,
)
HEADS, KV_HEADS, DIM = CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.head_dim
STEPS = 120


@dataclass
class Sequence:
    """A cache, the keys and values of each position it has read, [layers, 2, M, D], and marks with their lengths."""

    cache: KVCache
    read: list[np.ndarray] = field(default_factory=list)
    marks: list[tuple[KVCache, int]] = field(default_factory=list)


class Walk:
    """Caches that go their ways from one root, and what may happen to one of them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.sequences = [Sequence(KVCache.empty(CONFIG))]
        self.done: list[str] = []

    def step(self) -> None:
        own = self.sequences[int(self.rng.integers(len(self.sequences)))]
        decode = self.decode, self.decode, self.together
        ways = (*decode, self.read, self.mark, self.mark, self.rewind, self.share, self.fail)
        way = ways[int(self.rng.integers(len(ways)))]
        self.done.append(way.__name__)
        way(own)
        for each in self.sequences:
            self.compare(each)

    def drawn(self, count: int) -> np.ndarray:
        """Return keys and values of new positions, [count, layers, 2, M, D]."""
        return self.rng.standard_normal((count, len(CONFIG.layer_types), 2, KV_HEADS, DIM)).astype(np.float32)

    def decode(self, own: Sequence) -> None:
        for _ in range(int(self.rng.integers(1, 8))):
            self.decode_some([own], int(self.rng.integers(1, 9)))

    def decode_some(self, sequences: list[Sequence], L: int, layers: int = 3) -> None:
        """Decode L positions of each, as the model does, in so many of the layers."""
        new = [self.drawn(L) for _ in sequences]
        for each in sequences:
            each.cache.prepare(L, CONFIG, F32)
        for number in range(layers):
            q = self.rng.standard_normal((L * len(sequences), HEADS, DIM)).astype(np.float32)
            kv = mx.array(np.concatenate([rows[:, number] for rows in new]))
            caches = [each.cache.layers[number] for each in sequences]
            layer = Attention(mx.zeros(HEADS), 0.2, caches[0].window)
            views = [cache.view() for cache in caches]
            attended, tails = launch.decode_attention(mx.array(q), kv, views, layer, F32)
            for cache, tail in zip(caches, tails, strict=True):
                cache.advance(tail, L)
            for s, (each, rows) in enumerate(zip(sequences, new, strict=True)):
                k, v = np.array([*each.read, *rows], np.float64)[:, number].transpose(1, 2, 0, 3)
                of = slice(s * L, s * L + L)
                want = attention(q[of].transpose(1, 0, 2).astype(np.float64), k, v, layer)
                assert np.abs(np.array(attended[of]) - want.values).max() <= 5e-6 * want.size
        if layers == 3:
            for each, rows in zip(sequences, new, strict=True):
                each.read += list(rows)

    def together(self, own: Sequence) -> None:
        self.decode_some(self.sequences, int(self.rng.integers(1, 9)))

    def read(self, own: Sequence) -> None:
        new = self.drawn(int(self.rng.integers(1, 100)))
        for number, cache in enumerate(own.cache.layers):
            k, _ = cache.append(mx.array(new[:, number].transpose(1, 2, 0, 3)[:, None]))
            if self.rng.random() < 0.5:
                mx.eval(k)
        own.read += list(new)

    def mark(self, own: Sequence) -> None:
        if not own.marks or own.marks[-1][1] < len(own.read):
            own.marks.append((own.cache.mark(), len(own.read)))

    def rewind(self, own: Sequence) -> None:
        if own.marks:
            del own.marks[int(self.rng.integers(len(own.marks))) + 1 :]
            mark, length = own.marks[-1]
            own.cache.rewind(mark)
            del own.read[length:]

    def share(self, own: Sequence) -> None:
        """Let another cache go on from here, or from a mark. It has a body of its own as soon as either writes."""
        other = Sequence(own.cache.shared(), list(own.read), list(own.marks))
        if self.rng.random() < 0.5:
            self.rewind(other)
        if len(self.sequences) == 3:
            del self.sequences[int(self.rng.integers(3))]
        self.sequences.append(other)

    def fail(self, own: Sequence) -> None:
        """Begin a step that ends in some layer, and undo it."""
        mark = own.cache.mark()
        self.decode_some([own], int(self.rng.integers(1, 9)), layers=int(self.rng.integers(3)))
        own.cache.rewind(mark)

    def compare(self, own: Sequence) -> None:
        assert own.cache.length == len(own.read)
        for number, cache in enumerate(own.cache.layers):
            assert cache.tail_rows <= TAIL
            held = cache.held()
            seen = own.read[-cache.window + 1 :] if cache.window else own.read
            got = np.zeros((0,)) if held is None else np.array(held)[:, 0].transpose(2, 0, 1, 3)
            want = np.array([rows[number] for rows in seen]) if seen else np.zeros((0,))
            assert np.array_equal(got, want), f"layer {number}, {len(own.read)} positions, after {self.done[-6:]}"


@pytest.fixture(params=["native", "plain"])
def way(request, monkeypatch):
    """Where attention runs: in the library, which writes into a tail, or in MLX, which makes a new one."""
    if request.param == "native" and (not architectures() or launch.where() != "cpu"):
        pytest.skip("the native library is not used here")
    if request.param == "plain":
        monkeypatch.setenv(launch.VARIABLE, "off")


@pytest.mark.parametrize("seed", range(6))
def test_a_cache_holds_what_it_has_read_whatever_it_has_been_through(way, seed):
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
