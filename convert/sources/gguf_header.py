"""Read the header of one GGUF file: its metadata and the place of each tensor. Knows no models, reads no weights.

The format (version 2 and 3, little endian) is magic, version, the counts of tensors and of metadata entries, the
entries, a record for each tensor, padding, then the data. Everything is checked against the file's size before it is
used. The header is read in steps, and at most MAX_HEADER_BYTES of it.
"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from convert.pieces import REDOWNLOAD
from convert.sources.ggml_types import TYPES, row_nbytes
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model_folder.safetensors import GIT_LFS_POINTER, StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 64 << 20
"""The published vocabulary and its merges take 12 MB of a header."""
MAX_ENTRIES = 10_000
MAX_TENSORS = 100_000
MAX_NAME_BYTES = 1 << 16
MAX_DIMENSIONS = 4
"""ggml's GGML_MAX_DIMS."""
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 16

_STEP = 1 << 20
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_FLOAT32 = 6
_STRING = 8
_ARRAY = 9


@dataclass(frozen=True)
class GgufArray:
    """An array of the metadata, not yet decoded. ``kind`` is GGUF's number of its elements' type."""

    kind: int
    count: int
    data: bytes = field(repr=False)

    def values(self) -> list[int | float | bool]:
        """Return the numbers. Raises ValueError for an array of texts."""
        if self.kind == _STRING:
            raise ValueError("it holds texts, not numbers")
        return [value for (value,) in struct.iter_unpack(_SCALARS[self.kind], self.data)]

    def texts(self) -> list[str]:
        """Return the texts. Raises ValueError for an array of numbers, and for what is not UTF-8."""
        if self.kind != _STRING:
            raise ValueError("it holds numbers, not texts")
        return list(self._texts())

    def _texts(self) -> Iterator[str]:
        start = 0
        for _ in range(self.count):
            end = start + 8 + int.from_bytes(self.data[start : start + 8], "little")
            yield self.data[start + 8 : end].decode()
            start = end


Value = int | float | bool | str | GgufArray


@dataclass(frozen=True)
class GgufHeader:
    """``tensors`` are in the order of their data. A tensor's dtype is a name in ``ggml_types``, its shape numpy's."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, StoredTensor]


def read_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file.

    Raises CheckpointError with one line unless every tensor lies inside the file, its size fits its type and shape, and
    the tensors fill the data without overlap and without holes beyond the alignment.
    """

    def fail(problem: str) -> CheckpointError:
        return CheckpointError(f"{path}: {problem}; {REDOWNLOAD}")

    try:
        with path.open("rb") as file:
            if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
                raise CheckpointError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` there")
            file.seek(0)
            return _read(path, _Bytes(file, os.fstat(file.fileno()).st_size, fail), fail)
    except FileNotFoundError:
        raise fail("missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


class _Bytes:
    """The beginning of a file, read as far as it is asked for."""

    def __init__(self, file: BinaryIO, size: int, fail: Callable[[str], CheckpointError]) -> None:
        self.size = size
        self.at = 0
        self.fail = fail
        self._file = file
        self._data = bytearray()

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        self._need(count)
        self.at += count
        return bytes(self._data[self.at - count : self.at])

    def number(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def count(self, form: str, what: str, most: int) -> int:
        found = int(self.number(form))
        if found > most:
            raise self.fail(f"{found:,} {what} cannot be right")
        return found

    def text(self, what: str, most: int = MAX_HEADER_BYTES) -> str:
        length = self.count("<Q", f"bytes of {what}", most)
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def texts(self, count: int) -> bytes:
        """Return the bytes of ``count`` texts with their lengths."""
        start = self.at
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            self._need(8)
            self.at += 8 + unpack(self._data, self.at)[0]
        self._need(0)
        return bytes(self._data[start : self.at])

    def _need(self, count: int) -> None:
        end = self.at + count
        if end <= len(self._data):
            return
        if end > self.size:
            raise self.fail(f"truncated at {self.size:,} bytes, inside its header")
        if end > MAX_HEADER_BYTES:
            raise self.fail(f"a header of more than {MAX_HEADER_BYTES >> 20} MB cannot be right")
        while len(self._data) < end:
            more = self._file.read(max(_STEP, end - len(self._data)))
            if not more:
                raise self.fail("became shorter while it was read")
            self._data += more


def _read(path: Path, data: _Bytes, fail: Callable[[str], CheckpointError]) -> GgufHeader:
    if data.size < 24 or data.take(4) != MAGIC:
        raise fail(f"no GGUF file of {data.size:,} bytes begins like this")
    version = int(data.number("<I"))
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise CheckpointError(f"{path}: is a big-endian GGUF file; get the usual little-endian one")
        raise CheckpointError(f"{path}: has GGUF version {version}; get a file of version 3")
    tensor_count = data.count("<Q", "tensors", MAX_TENSORS)
    entry_count = data.count("<Q", "metadata entries", MAX_ENTRIES)
    metadata: dict[str, Value] = {}
    for _ in range(entry_count):
        key = data.text("a metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise fail(f"the metadata entry {key!r:.100} is there twice")
        metadata[key] = _value(data, key, data.count("<I", "as a metadata type", 12))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise fail(f"general.alignment is {alignment!r:.100}, no power of two that can be right")
    found: dict[str, StoredTensor] = {}
    for _ in range(tensor_count):
        name = data.text("a tensor's name", MAX_NAME_BYTES)
        if name in found:
            raise fail(f"tensor {name!r:.100} is there twice")
        found[name] = _tensor(data, name)
    start = _aligned(data.at, alignment)
    placed = [
        (name, StoredTensor(tensor.dtype, tensor.shape, start + tensor.offset, tensor.nbytes))
        for name, tensor in sorted(found.items(), key=lambda item: item[1].offset)
    ]
    _check_tiling(placed, start, alignment, data.size, fail)
    return GgufHeader(path, metadata, dict(placed))


def _value(data: _Bytes, key: str, kind: int) -> Value:
    if kind == _STRING:
        return data.text(f"metadata entry {key!r:.100}")
    if kind != _ARRAY:
        value = data.number(_SCALARS[kind])
        # The shortest decimal with the same float32 is what the number was before it was stored.
        return float(str(np.float32(value))) if kind == _FLOAT32 else value
    of = data.count("<I", f"as the type of {key!r:.100}", 12)
    if of == _ARRAY:
        raise data.fail(f"metadata entry {key!r:.100} is an array of arrays")
    count = data.count("<Q", f"values of {key!r:.100}", MAX_HEADER_BYTES)
    if of == _STRING:
        return GgufArray(of, count, data.texts(count))
    return GgufArray(of, count, data.take(count * struct.calcsize(_SCALARS[of])))


def _tensor(data: _Bytes, name: str) -> StoredTensor:
    """Return a tensor with its offset from the start of the data. ggml names the fastest size first, numpy last."""
    dimensions = data.count("<I", f"dimensions of tensor {name!r:.100}", MAX_DIMENSIONS)
    shape = tuple(data.count("<Q", f"as a size of tensor {name!r:.100}", 1 << 48) for _ in range(dimensions))[::-1]
    number = int(data.number("<I"))
    offset = int(data.number("<Q"))
    if not shape or 0 in shape:
        raise data.fail(f"tensor {name!r:.100} has the impossible shape {list(shape)}")
    if number not in TYPES:
        raise data.fail(f"tensor {name!r:.100} has the unknown type {number}")
    kind = TYPES[number]
    if shape[-1] % kind.block:
        raise data.fail(f"tensor {name!r:.100} is {kind.name} with rows of {shape[-1]}, no multiple of {kind.block}")
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return StoredTensor(kind.name, shape, offset, rows * row_nbytes(kind.name, shape[-1]))


def _check_tiling(
    placed: list[tuple[str, StoredTensor]],
    start: int,
    alignment: int,
    size: int,
    fail: Callable[[str], CheckpointError],
) -> None:
    for name, tensor in placed:
        if (stop := tensor.offset + tensor.nbytes) > size:
            raise fail(f"tensor {name!r:.100} ends at byte {stop:,} of a file of {size:,}: it is truncated")
    end = start
    previous = ""
    for name, tensor in placed:
        if tensor.offset % alignment:
            raise fail(f"tensor {name!r:.100} is not aligned to {alignment} bytes")
        if tensor.offset < end:
            raise fail(f"tensors {previous!r:.100} and {name!r:.100} overlap")
        if tensor.offset >= end + alignment:
            raise fail(f"a hole of {tensor.offset - end:,} bytes before tensor {name!r:.100}")
        end = tensor.offset + tensor.nbytes
        previous = name
    if size - end >= alignment:
        raise fail(f"{size - end:,} bytes after the last tensor")


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
