"""Contexts on disk: keys and values under names made of the ids that they follow from.

A *snapshot* is a point that a context can resume from: the sliding layers' windows there. The keys and values of full
layers lie beside it in *blocks* of BLOCK positions, each under a name made of all ids up to its end. So contexts with
the same beginning share its blocks, and a longer one adds only what is new. No ids are written. A name is a digest of
the ids, the weights' hash, the cache's dtype, the library that computed it and the versions of MLX and of this format,
so that a prompt finds what was computed from the same and nothing else.

``bounded_folder`` and ``folder_writer`` know the files; ``prefix_cache`` knows when to use this.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.config import FULL, ModelConfig
from gptoss_mlx.engine.context import Context
from gptoss_mlx.folder_writer import FolderWriter
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder
from metal_kernels import launch

VERSION = "1"

BLOCK = 256
"""Positions of a block: 6 MB for 20b in bf16, as many as are copied at once."""

PENDING = 4
"""Files that wait to be written, copies of keys and values. It bounds the memory that writing takes: 25 MB for 20b."""

MOST = 0.9
"""The share of the budget that one context may take. Digests and the like take some of the rest."""

NUMPY_DTYPES = {mx.float32: np.float32, mx.bfloat16: np.uint16}

_NAME = re.compile(r"at-(\d{1,9})-[0-9a-f]{40}")


@dataclass(frozen=True)
class _Names:
    """Names of files by the number of ids that lead to them."""

    digests: dict[int, str]

    @classmethod
    def of(cls, model_key: str, ids: list[int], lengths: Sequence[int]) -> "_Names":
        """Return the names of the snapshots at ``lengths`` and of the blocks before them."""
        about = f"snapshot {VERSION}\n{model_key}\nMLX {mx.__version__}\n{launch.where()}\n"  # type: ignore[attr-defined]
        digest = hashlib.sha256(about.encode())
        digests = {}
        done = 0
        for end in sorted({*lengths, *range(BLOCK, max(lengths, default=0) + 1, BLOCK)}):
            digest.update(np.array(ids[done:end], np.uint32).tobytes())
            digests[end] = digest.hexdigest()[:40]
            done = end
        return cls(digests)

    def snapshot(self, length: int) -> str:
        return f"at-{length}-{self.digests[length]}"

    def files(self, length: int) -> list[str]:
        """Return the names of the blocks before a snapshot, the first first, and its own."""
        blocks = [f"kv-{end}-{self.digests[end]}" for end in range(BLOCK, length + 1, BLOCK)]
        return [*blocks, self.snapshot(length)]


@dataclass
class Snapshots:
    """The snapshots in ``folder``. ``writer`` writes them, so that a reply waits at most for copies of what is new."""

    folder: BoundedFolder

    def __post_init__(self) -> None:
        self.writer = FolderWriter(self.folder, PENDING)

    def lengths(self, model_key: str, prompt: list[int]) -> list[int]:
        """Return the lengths of the proper prefixes of ``prompt`` that have a snapshot, the longest first."""
        names = self.folder.names()
        found = {int(match[1]) for match in map(_NAME.fullmatch, names) if match}
        lengths = [length for length in found if 0 < length < len(prompt)]
        named = _Names.of(model_key, prompt, lengths)
        return [length for length in sorted(lengths, reverse=True) if names.issuperset(named.files(length))]

    def load(self, model_key: str, model: Decoder, prompt: list[int], length: int) -> Context | None:
        """Return a context that has read ``length`` ids of ``prompt``, with a mark there. Return None if a file that it
        needs is missing, of another size or damaged."""
        config = model.config
        dtype = model.weights.dtype
        files = _Names.of(model_key, prompt, [length]).files(length)
        kept = self._read(files, config, length, NUMPY_DTYPES[dtype])
        if kept is None:
            return None
        held = []
        while kept:  # one by one, so that only one layer is there twice
            array = mx.array(kept.pop(0))
            held.append(array.view(mx.bfloat16) if dtype == mx.bfloat16 else array)
            mx.eval(held[-1])
        self.folder.touch(reversed(files))
        context = Context(model, KVCache.restored(config, length, held), prompt[:length])
        context.mark()
        return context

    def save(
        self, model_key: str, ids: list[int], cache: KVCache, marks: Sequence[KVCache], *, wait: bool = True
    ) -> bool:
        """Write a snapshot of each of the ``marks`` of ``cache``, which has read ``ids``, and the blocks that are not
        there. Copy them first, and where PENDING copies are not written yet ``wait`` for the writer, or else return
        False, to be called again. Nothing is written if the budget cannot hold all of it."""
        if self.writer.failure is not None or not marks:
            return True
        if not wait and self.writer.full:
            return False
        last = marks[-1].length
        names = _Names.of(model_key, ids, [mark.length for mark in marks])
        state = cache.at(marks[-1])
        points = {mark.length: cache.at(mark).kept(mark.length // BLOCK * BLOCK) for mark in marks}
        whole = [state.full_rows(0, last), *points.values()]
        if sum(array.nbytes for arrays in whole for array in arrays) > self.folder.budget * MOST:
            return True
        blocks = names.files(last)[:-1]
        order = [*map(names.snapshot, sorted(points, reverse=True)), *reversed(blocks)]  # a shared beginning goes last
        self.folder.touch(order)  # lest writing some removes others
        there = self.writer.waiting.copy() | self.folder.names()  # a file leaves the first when it is in the second
        parts = [(name, state.full_rows(at * BLOCK, (at + 1) * BLOCK)) for at, name in enumerate(blocks)]
        parts += [(names.snapshot(length), arrays) for length, arrays in points.items()]
        for name, arrays in parts:
            if name not in there and not self.writer.put(name, partial(_copied, arrays), wait=wait):
                return self.writer.failure is not None
        self.writer.touch(order)
        return True

    def _read(self, files: list[str], config: ModelConfig, length: int, dtype: type) -> list[np.ndarray] | None:
        """Return keys and values of each layer, [2, 1, M, rows, D]. Each is allocated once, and the files fill it."""
        lengths = [length if kind == FULL else min(length, config.sliding_window - 1) for kind in config.layer_types]
        kept: list[np.ndarray] = [
            np.empty((2, 1, config.num_key_value_heads, n, config.head_dim), dtype) for n in lengths
        ]
        for number, name in enumerate(files):
            rows = slice(number * BLOCK, None if name == files[-1] else (number + 1) * BLOCK)
            wanted = [
                own[:, :, :, rows] if kind == FULL else own
                for own, kind in zip(kept, config.layer_types, strict=True)
                if kind == FULL or name == files[-1]
            ]
            data = self.folder.read(name)
            if data is None or data.nbytes != sum(part.nbytes for part in wanted):
                return None
            for part in filter(np.size, wanted):
                part[...] = np.frombuffer(data[: part.nbytes], dtype).reshape(part.shape)
                data = data[part.nbytes :]
        return kept


def _copied(arrays: Iterable[mx.array]) -> list[memoryview]:
    return [np.array(array.view(mx.uint8)).data.cast("B") for array in arrays]
