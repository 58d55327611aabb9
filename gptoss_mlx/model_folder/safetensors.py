"""Read and write the header of one safetensors file. Knows no models, and reads no tensor data.

The format is eight bytes of header length (little endian), a JSON header, then the data. ``data_offsets`` count from
the start of the data, and the tensors tile the data without holes.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import GptOssError, quoted

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one value."""
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 8
"""These limits stop hostile files. gpt-oss-120b has 687 tensors in a header of less than 100 KB."""
GIT_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's place in a file. ``offset`` counts from the start of the file; ``nbytes`` is dtype times shape."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def nbytes_of(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes of a tensor of one of DTYPE_BYTES."""
    return DTYPE_BYTES[dtype] * math.prod(shape)


def read_header(path: Path, error: type[GptOssError], remedy: str) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file, in the order of their data.

    Checks that every tensor lies inside the file, that its size fits its dtype and shape, and that the tensors fill the
    data without overlap or hole. Otherwise raises ``error`` with one line: the file, what is wrong, and ``remedy``.
    """

    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(max(8, len(GIT_LFS_POINTER)))
            length = header_length(start, size, path, error, remedy)
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError:
        raise error(f"{path}: missing; {remedy}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    return parse_header(text, size, path, error, remedy)


def header_length(start: bytes, size: int, path: Path, error: type[GptOssError], remedy: str) -> int:
    """Return the length of the JSON header of a file of ``size`` bytes, from the file's first 19 bytes.

    Raises ``error`` if it cannot be right.
    """
    if start.startswith(GIT_LFS_POINTER):
        raise error(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` in that folder")
    if len(start) < 8:
        raise error(f"{path}: truncated at {size} bytes, no safetensors header; {remedy}")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise error(f"{path}: a header of {length:,} bytes cannot be right, this is no safetensors file; {remedy}")
    if 8 + length > size:
        raise error(f"{path}: truncated at {size:,} bytes, inside its header; {remedy}")
    return length


def parse_header(text: bytes, size: int, path: Path, error: type[GptOssError], remedy: str) -> dict[str, StoredTensor]:
    """Return what ``read_header`` does, from the header's JSON and the file's size in bytes."""

    def fail(problem: str) -> GptOssError:
        return error(f"{path}: {problem}; {remedy}")

    try:
        raw = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as problem:
        raise fail(f"its header is damaged ({problem})") from None
    if not isinstance(raw, dict):
        raise fail("its header is damaged (no JSON object)")
    raw.pop("__metadata__", None)
    if len(raw) > MAX_TENSORS:
        raise fail(f"{len(raw):,} tensors cannot be right")

    data = 8 + len(text)
    tensors = {}
    for name, entry in raw.items():
        tensor = _tensor(entry, data)
        if isinstance(tensor, str):
            raise fail(f"tensor {name!r:.200} {tensor}")
        tensors[name] = tensor
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    _check_tiling(tensors, data, size, fail)
    return tensors


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r:.200} is there twice")
        found[name] = value
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _tensor(entry: Any, data: int) -> StoredTensor | str:
    """Return a header entry as a StoredTensor, or a text that says what is wrong with it."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "has a damaged header entry"
    dtype, shape, span = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return f"has the unknown dtype {quoted(dtype)}"
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_count, shape)):
        return f"has the impossible shape {quoted(shape)}"
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_count, span)) or span[0] > span[1]:
        return f"has the impossible span {quoted(span)}"
    nbytes = nbytes_of(dtype, shape)
    if nbytes != span[1] - span[0]:
        return f"spans {span[1] - span[0]:,} bytes where {dtype} {shape} needs {nbytes:,}"
    return StoredTensor(dtype, tuple(shape), data + span[0], nbytes)


def _check_tiling(
    tensors: Mapping[str, StoredTensor], data: int, size: int, fail: Callable[[str], GptOssError]
) -> None:
    for name, tensor in tensors.items():
        if (stop := tensor.offset + tensor.nbytes) > size:
            raise fail(f"tensor {name!r:.200} ends at byte {stop:,} of a file of {size:,}: it is truncated")
    end = data
    previous = ""
    for name, tensor in tensors.items():
        if tensor.offset < end:
            raise fail(f"tensors {previous!r:.200} and {name!r:.200} overlap")
        if tensor.offset > end:
            raise fail(f"a hole of {tensor.offset - end:,} bytes before tensor {name!r:.200}")
        end = tensor.offset + tensor.nbytes
        previous = name
    if end != size:
        raise fail(f"{size - end:,} bytes after the last tensor")


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], alignment: int, made_for: str = "mlx") -> bytes:
    """Return the start of a file that holds ``{name: (dtype, shape)}`` in this order, padded to align the data.

    ``made_for`` is the format that other programs read in the file's metadata: "mlx", or "pt" for PyTorch.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": made_for}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = nbytes_of(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return len(text).to_bytes(8, "little") + text
