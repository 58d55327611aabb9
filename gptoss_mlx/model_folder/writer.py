"""Write a model folder: shards as streams of bytes, then the small files, the manifest last.

Everything is synced to disk on return. A failed write raises StorageError. The caller makes and names the folder.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.files import storage_errors, sync, sync_folder, write_all
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import header_bytes, nbytes_of

_READ_BYTES = 8 << 20


@dataclass
class TensorStream:
    """Writes one tensor's bytes and hashes them. The filler after the tensor stays zero."""

    _fd: int
    _path: Path
    name: str
    _offset: int
    nbytes: int
    written: int = 0
    _position: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)
    _digest: str | None = None

    def write(self, data: Any) -> None:
        """Append a C-contiguous buffer. Raises ValueError past the tensor's end, StorageError when the write fails."""
        block = memoryview(data).cast("B")
        if self._position + len(block) > self.nbytes:
            raise ValueError(f"{self.name}: more than {self.nbytes} bytes")
        if self._hash is not None:
            self._hash.update(block)
        with storage_errors(self._path):
            while block:
                count = os.pwrite(self._fd, block, self._offset + self._position)
                self._position += count
                self.written += count
                block = block[count:]

    def move(self, position: int) -> None:
        """Write on from a byte of the tensor. Once this leaves a gap, the digest is that of what the file holds."""
        if position != self._position:
            self._hash = None
            self._position = position

    def skip(self, nbytes: int) -> None:
        """Count bytes from here on as written: those that an earlier process has written."""
        self.written += nbytes
        self._position += nbytes
        self._hash = None

    def expect_digest(self) -> None:
        """Do not hash what is written from here on, because ``give_digest`` will be called."""
        self._hash = None

    def give_digest(self, digest: str) -> None:
        """Take the caller's sha256 of the whole tensor."""
        self._digest = digest

    def digest(self) -> str:
        """Return the sha256 of the tensor, which is complete. Raises StorageError when it must be read and cannot."""
        if self._digest is not None:
            return self._digest
        if self._hash is not None:
            return str(self._hash.hexdigest())
        digest = hashlib.sha256()
        with storage_errors(self._path):
            for start in range(0, self.nbytes, _READ_BYTES):
                digest.update(os.pread(self._fd, min(_READ_BYTES, self.nbytes - start), self._offset + start))
        return digest.hexdigest()


class ShardWriter:
    """A context that writes one shard. Write each tensor through ``streams``, in any order; leaving the context syncs.

    A file that is there already is written on: its other bytes stay. ``dtypes`` names the dtype of tensors that may
    have several (norms). After the context ``digests`` has the sha256 of every tensor. Leaving it raises ValueError if
    a tensor is incomplete.
    """

    def __init__(self, folder: Path, shard: layout.ShardLayout, dtypes: Mapping[str, str]) -> None:
        self.path = folder / shard.file
        self._tensors = {name: (dtypes.get(name, spec.dtypes[0]), spec.shape) for name, spec in shard.tensors.items()}
        for name, (dtype, _) in self._tensors.items():
            if dtype not in shard.tensors[name].dtypes:
                raise ValueError(f"{name}: {dtype} is none of {shard.tensors[name].dtypes}")
        self.streams: dict[str, TensorStream] = {}
        self.digests: dict[str, str] = {}

    def __enter__(self) -> "ShardWriter":
        header = header_bytes(layout.with_fillers(self.path.name, self._tensors), layout.ALIGNMENT)
        offset = len(header)
        flags = os.O_CREAT | os.O_NOFOLLOW | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        with storage_errors(self.path):
            self._fd = os.open(self.path, flags, 0o644)
            try:
                write_all(self._fd, header)
                for name, (dtype, shape) in self._tensors.items():
                    nbytes = nbytes_of(dtype, shape)
                    self.streams[name] = TensorStream(self._fd, self.path, name, offset, nbytes)
                    offset = layout.align(offset + nbytes)
                os.ftruncate(self._fd, offset)
            except BaseException:
                os.close(self._fd)
                raise
        return self

    def sync(self) -> None:
        """Wait until what was written is on the medium."""
        with storage_errors(self.path):
            sync(self._fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storage_errors(self.path):
            try:
                if kind is None:
                    sync(self._fd)
                    if short := [stream for stream in self.streams.values() if stream.written != stream.nbytes]:
                        raise ValueError(f"{short[0].name}: {short[0].written} of {short[0].nbytes} bytes written")
                    self.digests = {name: stream.digest() for name, stream in self.streams.items()}
            finally:
                os.close(self._fd)


def shard_nbytes(shard: layout.ShardLayout) -> int:
    """Return about how many bytes a shard takes on disk: its tensors with fillers, and a page of header."""
    sizes = (nbytes_of(spec.dtypes[-1], spec.shape) for spec in shard.tensors.values())
    return layout.ALIGNMENT + sum(map(layout.align, sizes))


def write_metadata(
    folder: Path,
    config: ModelConfig,
    generation: Mapping[str, Any],
    *,
    dense: str,
    digests: Mapping[str, str],
    source: Mapping[str, Any],
    tool: str,
) -> None:
    """Write the small files, after every shard and the tokenizer, if any, have been written. The manifest comes last.

    ``digests`` has the sha256 of every tensor. ``source`` says where the tensors came from, ``tool`` which program
    wrote them. Raises ValueError when ``digests`` does not match the layout.
    """
    shards = layout.shards(config, dense)
    weight_map = {name: shard.file for shard in shards for name in shard.tensors}
    if weight_map.keys() != digests.keys():
        raise ValueError(f"digests do not match the layout: {sorted(weight_map.keys() ^ digests.keys())[:3]}")
    with storage_errors(folder):
        total = sum((folder / shard.file).stat().st_size for shard in shards)
        _write_json(folder / layout.CONFIG, config.to_dict())
        _write_json(folder / layout.GENERATION, generation)
        _write_json(folder / layout.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        small = [layout.CONFIG, layout.GENERATION, layout.INDEX, layout.TOKENIZER]
        hashes = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in small if (folder / name).exists()
        }
        manifest = {
            "format": layout.FORMAT,
            "format_version": layout.FORMAT_VERSION,
            "tool": tool,
            "quantization": layout.quantization(dense),
            "source": source,
            "files": hashes,
            "tensors": {name: {"sha256": digests[name]} for name in weight_map},
        }
        _write_json(folder / layout.MANIFEST, manifest)
        sync_folder(folder)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        write_all(fd, json.dumps(value, indent=2).encode() + b"\n")
        sync(fd)
    finally:
        os.close(fd)
