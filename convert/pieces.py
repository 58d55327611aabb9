"""The unit of a conversion: rows of a model folder's tensors, and how they are read from source tensors.

Every source yields the published form, whatever its own is: dense rows as bfloat16 bits or float32, MXFP4 codes in
blocks of 16 bytes with their scales. Dense rows that are q8 already are the one exception. What is made of it is not
known here.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model_folder.safetensors import StoredTensor

REDOWNLOAD = "download it again"
NUMPY_DTYPE = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "U32": np.uint32, "U8": np.uint8}
BLOCK_BYTES = 16 << 20
"""Bytes read at once. Quantizing them needs about five times as much memory."""

FLOATS = ("BF16", "F16", "F32")
"""Dtypes of weights in full. All of them are exact in float32."""


ByteProgress = Callable[[int, int], None]
"""Is told (bytes done, bytes in all)."""


def counting(progress: ByteProgress | None, total: int) -> Callable[[int], None]:
    """Return what takes numbers of bytes, adds them up and tells ``progress``."""
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    return count


class Q8Rows(NamedTuple):
    """Rows of a dense matrix in MLX's affine mode, 8 bits in groups of 64, as a q8 model folder has them.

    ``weight`` [R, C/4] uint32, ``scales`` and ``biases`` [R, C/64] uint16 (bfloat16 bits).
    """

    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray


Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the checkpoint and the place of its bytes."""

    name: str
    file: Path
    tensor: StoredTensor


@dataclass(frozen=True)
class Piece:
    """``rows`` rows of one or more tensors of ours, ``targets``, that are read together, from row ``start`` of each on.

    ``targets`` are names of one shard of a model folder whose dense matrices are bfloat16. A row is an index of a
    tensor's first axis. ``read`` yields the next rows, one array for each target: a dense matrix [rows, C] and a vector
    [rows] as uint16 (bfloat16 bits) or float32, MXFP4 codes [..., G, 16] uint8, their scales [..., G] uint8, where the
    leading axes of experts may be flat. A dense matrix may also be Q8Rows. ``dtype`` is "BF16", "F32", "U8" or, for
    Q8Rows, "U32": what the first array is. ``verbatim``: the bytes that ``read`` yields are all those of the one source
    tensor, so that one hash can serve both.
    """

    targets: tuple[str, ...]
    start: int
    rows: int
    sources: tuple[SourceTensor, ...]
    dtype: str
    read: Callable[["Reader"], Iterator[tuple[np.ndarray | Q8Rows, ...]]]
    verbatim: bool = False

    @property
    def key(self) -> str:
        """A name of the piece that is the same in every process."""
        return f"{self.targets[0]} {self.start}"


@dataclass
class Reader:
    """Reads source tensors. ``digests`` has the sha256 of each that was read whole, by name.

    ``progress`` gets the number of bytes read after each block. ``tally`` sums what a source counts on the way, such as
    the error of a rounding.
    """

    progress: Callable[[int], None] = lambda nbytes: None
    digests: dict[str, str] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)

    def count(self, name: str, amount: float) -> None:
        """Add to the tally. A sum need not be whole."""
        self.tally[name] += amount  # type: ignore[assignment]

    def blocks(self, source: SourceTensor, row_bytes: int, rows: int | None = None) -> Iterator[np.ndarray]:
        """Yield a tensor's bytes in order as uint8 arrays of ``rows`` rows, the last of fewer.

        By default ``rows`` is as many as ``BLOCK_BYTES`` holds. A thread reads and hashes one array ahead, and an array
        is good until the next one is asked for.

        Raises CheckpointError where the file cannot be read or ends too early.
        """
        tensor = source.tensor
        size = (max(1, BLOCK_BYTES // row_bytes) if rows is None else rows) * row_bytes
        count = -(-tensor.nbytes // size)
        buffers = [memoryview(bytearray(min(size, tensor.nbytes))) for _ in range(min(2, count))]
        digest = hashlib.sha256()

        def fill(number: int) -> memoryview:
            block = buffers[number % 2][: tensor.nbytes - number * size]
            filled = 0
            while filled < len(block):
                count = file.readinto(block[filled:])
                if not count:
                    raise CheckpointError(f"{source.file}: truncated while it was read; {REDOWNLOAD}")
                filled += count
            digest.update(block)
            return block

        try:
            with source.file.open("rb", buffering=0) as file, ThreadPoolExecutor(1, "read") as ahead:
                file.seek(tensor.offset)
                following = [ahead.submit(fill, number) for number in range(min(1, count))]
                for number in range(count):
                    block = following.pop().result()
                    following += [ahead.submit(fill, number + 1)] if number + 1 < count else []
                    yield np.frombuffer(block, np.uint8)
                    self.progress(len(block))
        except OSError as error:
            raise CheckpointError(f"{source.file}: cannot be read ({error.strerror})") from error
        self.digests[source.name] = digest.hexdigest()

    def rows(self, sources: Sequence[SourceTensor]) -> Iterator[Arrays]:
        """Yield the next rows of tensors that have equally many, an array [rows, ...] for each, in reused buffers.

        A row is an index of the first axis. BF16 comes as its bits, and F16 as float32.
        """
        dtypes = [np.dtype(NUMPY_DTYPE[source.tensor.dtype]) for source in sources]
        shapes = [source.tensor.shape[1:] for source in sources]
        row_bytes = [dtype.itemsize * math.prod(shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
        rows = max(1, BLOCK_BYTES // sum(row_bytes))
        streams = [self.blocks(source, nbytes, rows) for source, nbytes in zip(sources, row_bytes, strict=True)]
        for blocks in zip(*streams, strict=True):
            arrays = (
                block.view(dtype).reshape(-1, *shape)
                for block, dtype, shape in zip(blocks, dtypes, shapes, strict=True)
            )
            yield tuple(array.astype(np.float32) if array.dtype == np.float16 else array for array in arrays)


def stacked(source: SourceTensor) -> SourceTensor:
    """Return a tensor as a stack of one: with a first axis of length 1 before its others."""
    return replace(source, tensor=replace(source.tensor, shape=(1, *source.tensor.shape)))


def as_stored(target: str, start: int, source: SourceTensor, whole: bool) -> Piece:
    """Return the piece of a source tensor that is in the published form. ``whole``: it is all of the target.

    F16 becomes float32.
    """
    tensor = source.tensor
    half = tensor.dtype == "F16"
    dtype = np.dtype(NUMPY_DTYPE[tensor.dtype])
    row_shape = tensor.shape[2:] if tensor.dtype == "U8" else tensor.shape[1:]

    def read(reader: Reader) -> Iterator[Arrays]:
        for block in reader.blocks(source, dtype.itemsize * math.prod(row_shape)):
            rows = block.view(dtype).reshape(-1, *row_shape)
            yield (rows.astype(np.float32) if half else rows,)

    kind = "F32" if half else tensor.dtype
    return Piece((target,), start, tensor.shape[0], (source,), kind, read, verbatim=whole and not half)
