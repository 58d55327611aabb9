"""Open a model folder and check it against its config before any weight is used.

``open`` reads headers, the small files and the expert scales. ``verify`` reads every byte and compares hashes. File
names come from ``layout``, never from the index, so a folder cannot name a file outside itself.

A shard may be truncated after ``open``. ``read``, ``verify``, and the calls that return views then raise. A view that
was returned before stays unprotected: access to its lost pages kills the process with SIGBUS.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, ModelFolderError
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.generation import problem_with
from gptoss_mlx.model_folder.safetensors import StoredTensor, read_header

RECONVERT = "convert the model again"
_MAX_JSON = 64 << 20
_SCAN_BYTES = 8 << 20


@dataclass(frozen=True)
class Stretch:
    """The bytes of a file that hold one group of tensors. ``offset`` and ``nbytes`` are multiples of 16 KiB.

    ``tensors`` maps a name to (offset in the stretch, safetensors dtype, shape).
    """

    file: Path
    offset: int
    nbytes: int
    tensors: dict[str, tuple[int, str, tuple[int, ...]]]


@dataclass(frozen=True, eq=False)
class ModelFolder:
    """A checked model folder. Weights are views of memory-mapped files, so access to one reads it from disk."""

    path: Path
    config: ModelConfig
    generation: dict[str, Any]
    manifest: dict[str, Any]
    _shards: dict[str, dict[str, StoredTensor]]
    """File name to tensor name to place, in file order, without fillers."""

    @classmethod
    def open(cls, path: str | Path) -> "ModelFolder":
        """Check a folder and open it. Only the small files' hashes are compared; ``verify`` compares the others.

        Raises ModelFolderError with one line: the file, what is wrong with it, and the remedy.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for name, digest in manifest["files"].items():
            if _sha256(_plain_file(path / name)) != digest:
                raise ModelFolderError(f"{path / name}: differs from what was converted; {RECONVERT}")
        try:
            config = ModelConfig.from_dict(_read_json(path / layout.CONFIG), str(path / layout.CONFIG))
        except CheckpointError as error:
            raise ModelFolderError(str(error)) from error
        generation = _read_json(path / layout.GENERATION)
        if problem := problem_with(generation):
            raise ModelFolderError(f"{path / layout.GENERATION}: {problem}; {RECONVERT}")

        shards = layout.shards(config, manifest["quantization"]["dense"])
        found = {shard.file: _read_shard(path / shard.file, shard) for shard in shards}
        names = {name: shard.file for shard in shards for name in shard.tensors}
        if _read_json(path / layout.INDEX).get("weight_map") != names:
            raise ModelFolderError(f"{path / layout.INDEX}: does not list the config's tensors; {RECONVERT}")
        if set(manifest["tensors"]) != set(names):
            raise ModelFolderError(f"{path / layout.MANIFEST}: does not list the config's tensors; {RECONVERT}")
        for file, tensors in found.items():
            _check_scales(path / file, tensors)
        return cls(path, config, generation, manifest, found)

    @property
    def dense(self) -> str:
        """How dense matrices are stored: "q8" or "bf16"."""
        return self.manifest["quantization"]["dense"]

    @property
    def tokenizer_path(self) -> Path | None:
        """The file of harmony's compact tokenizer, or None if the checkpoint had none that fits its vocabulary."""
        return self.path / layout.TOKENIZER if layout.TOKENIZER in self.manifest["files"] else None

    def part(self, layers: range, *, ends: bool) -> "ModelFolder":
        """Return some of the layers as a folder of their own, counted from 0, with the embedding, the norm and the head
        only if it has the ``ends``. Only its weights can be read: the manifest is the whole folder's."""
        config = self.config
        kinds = tuple(config.layer_types[number] for number in layers)
        own = {layout.layer_file(number): (f"layers.{number}.", f"layers.{n}.") for n, number in enumerate(layers)}
        every = {layout.layer_file(number) for number in range(config.num_hidden_layers)}
        shards = {}
        for file, tensors in self._shards.items():
            if file in own:
                old, new = own[file]
                shards[file] = {new + name.removeprefix(old): tensor for name, tensor in tensors.items()}
            elif ends and file not in every:
                shards[file] = tensors
        return replace(self, config=replace(config, num_hidden_layers=len(layers), layer_types=kinds), _shards=shards)

    def names(self) -> list[str]:
        """Return the name of every tensor, embedding first, head last, without fillers."""
        return [name for tensors in self._shards.values() for name in tensors]

    def stretches(self) -> list[Stretch]:
        """Return every shard as one stretch, a layer's as two: its dense tensors, then its expert tensors."""
        found = []
        for file, tensors in self._shards.items():
            for expert in (False, True):
                group = {name: t for name, t in tensors.items() if layout.is_expert(name) == expert}
                if group:
                    found.append(self._stretch(file, group))
        return found

    def stretch_bytes(self, stretch: Stretch) -> np.ndarray:
        """Return a stretch as a read-only uint8 view of the mapped file. Its address is a multiple of the page size."""
        return self._mapped(stretch.file.name, stretch.offset, stretch.nbytes)

    def read_into(self, stretch: Stretch, memory: memoryview) -> None:
        """Read a stretch into as many bytes. Unlike a view they are safe if the file is truncated later.

        Raises ModelFolderError when the file ends before the stretch does.
        """
        with _opened(stretch.file) as file:
            file.seek(stretch.offset)
            _read_into(file, memory, stretch.file)

    def tensor(self, name: str) -> StoredTensor:
        """Return a tensor's dtype, shape and place in its shard. Raises KeyError."""
        return self._where[name][1]

    def file_of(self, name: str) -> Path:
        """Return the shard that holds a tensor. Raises KeyError."""
        return self.path / self._where[name][0]

    def read_part(self, name: str, start: int, nbytes: int) -> np.ndarray:
        """Return a copy of ``nbytes`` of a tensor from byte ``start`` on, as uint8.

        Raises ValueError where the tensor has no such bytes, ModelFolderError when the file ends before them.
        """
        file, tensor = self._where[name]
        if not 0 <= start <= start + nbytes <= tensor.nbytes:
            raise ValueError(f"{name}: has {tensor.nbytes} bytes, not {nbytes} from {start} on")
        data = np.empty(nbytes, np.uint8)
        with _opened(self.path / file) as source:
            source.seek(tensor.offset + start)
            _read_into(source, data.data, self.path / file)
        return data

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare every tensor with its sha256. ``progress`` is called with (bytes read, bytes in all).

        Raises ModelFolderError at the first tensor that differs. ``open`` has compared the small files.
        """
        total = sum(tensor.nbytes for _, tensor in self._where.values())
        done = 0
        buffer = memoryview(bytearray(_SCAN_BYTES))
        for name, (file, tensor) in self._where.items():
            digest = hashlib.sha256()
            with _opened(self.path / file) as source:
                source.seek(tensor.offset)
                for start in range(0, tensor.nbytes, _SCAN_BYTES):
                    block = buffer[: min(_SCAN_BYTES, tensor.nbytes - start)]
                    _read_into(source, block, self.path / file)
                    digest.update(block)
                    done += len(block)
                    if progress:
                        progress(done, total)
            if digest.hexdigest() != self.manifest["tensors"][name]["sha256"]:
                raise ModelFolderError(f"{self.path / file}: tensor '{name}' is damaged; {RECONVERT}")

    @cached_property
    def _where(self) -> dict[str, tuple[str, StoredTensor]]:
        return {name: (file, tensor) for file, tensors in self._shards.items() for name, tensor in tensors.items()}

    @cached_property
    def _maps(self) -> dict[str, mmap.mmap]:
        return {}

    def _mapped(self, file: str, offset: int, nbytes: int) -> np.ndarray:
        """Return a view of a file's bytes. Raises ModelFolderError when the file has become shorter."""
        if file not in self._maps:
            with _opened(self.path / file) as opened:
                if not os.fstat(opened.fileno()).st_size:  # an empty file cannot be mapped
                    raise ModelFolderError(f"{self.path / file}: truncated since it was opened; {RECONVERT}")
                self._maps[file] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        mapped = self._maps[file]
        if offset + nbytes > min(len(mapped), mapped.size()):  # size() asks the file, which may have shrunk
            raise ModelFolderError(f"{self.path / file}: truncated since it was opened; {RECONVERT}")
        return np.frombuffer(mapped, np.uint8, nbytes, offset)

    def _stretch(self, file: str, tensors: dict[str, StoredTensor]) -> Stretch:
        start = min(tensor.offset for tensor in tensors.values())
        end = layout.align(max(tensor.offset + tensor.nbytes for tensor in tensors.values()))
        inside = {name: (tensor.offset - start, tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        return Stretch(self.path / file, start, end - start, inside)


def _plain_file(path: Path) -> Path:
    if path.is_symlink():
        raise ModelFolderError(f"{path}: is a symbolic link, a model folder holds plain files; {RECONVERT}")
    if not path.is_file():
        raise ModelFolderError(f"{path}: missing; {RECONVERT}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if _plain_file(path).stat().st_size > _MAX_JSON:
            raise ValueError("it is too large")
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror}); check the disk, or {RECONVERT}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: damaged ({error}); {RECONVERT}") from error
    return raw


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a model folder's manifest, checked by itself. Raises ModelFolderError."""
    path = folder / layout.MANIFEST
    if not folder.is_dir():
        raise ModelFolderError(f"{folder}: no such folder; make one with `gptoss-mac convert`")
    if not path.exists():
        raise ModelFolderError(
            f"{folder}: not a model folder, it has no {layout.MANIFEST}; make one with `gptoss-mac convert`"
        )
    manifest = _read_json(path)
    version = manifest.get("format_version")
    if manifest.get("format") != layout.FORMAT or type(version) is not int:
        raise ModelFolderError(f"{path}: not a model folder's manifest; make one with `gptoss-mac convert`")
    if version > layout.FORMAT_VERSION:
        raise ModelFolderError(
            f"{path}: format version {version} is newer than this program's {layout.FORMAT_VERSION}; update gptoss-mac"
        )
    if version != layout.FORMAT_VERSION:
        raise ModelFolderError(f"{path}: format version {version} is unknown; {RECONVERT}")

    def need(condition: bool) -> None:
        if not condition:
            raise ModelFolderError(f"{path}: damaged; {RECONVERT}")

    quantization, files, tensors = (manifest.get(key) for key in ("quantization", "files", "tensors"))
    need(isinstance(quantization, dict) and quantization.get("dense") in layout.DENSE_CHOICES)
    need(quantization == layout.quantization(quantization["dense"]))  # type: ignore[index]
    small = {layout.CONFIG, layout.GENERATION, layout.INDEX}
    need(isinstance(files, dict) and small <= set(files) <= small | {layout.TOKENIZER})
    need(isinstance(tensors, dict))
    digests = [*files.values(), *(t.get("sha256") if isinstance(t, dict) else None for t in tensors.values())]  # type: ignore[union-attr]
    need(all(isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in digests))
    return manifest


def _read_shard(path: Path, shard: layout.ShardLayout) -> dict[str, StoredTensor]:
    """Return a shard's tensors. Raises ModelFolderError if one has not the dtype, shape and place of the layout."""
    header = read_header(_plain_file(path), ModelFolderError, RECONVERT)
    found = {name: tensor for name, tensor in header.items() if not name.startswith(layout.FILLER)}
    specs = shard.tensors
    if missing := specs.keys() - found.keys():
        raise ModelFolderError(f"{path}: tensor '{min(missing)}' is missing; {RECONVERT}")
    if extra := found.keys() - specs.keys():
        raise ModelFolderError(f"{path}: unknown tensor {min(extra)!r:.200}; {RECONVERT}")
    for name, spec in specs.items():
        tensor = found[name]
        if tensor.dtype not in spec.dtypes or tensor.shape != spec.shape:
            raise ModelFolderError(
                f"{path}: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, "
                f"config.json needs {' or '.join(spec.dtypes)} {list(spec.shape)}; {RECONVERT}"
            )
    expected = layout.align(min(tensor.offset for tensor in header.values()))
    for name in specs:
        if found[name].offset != expected:
            raise ModelFolderError(f"{path}: tensor '{name}' is not at byte {expected:,}; {RECONVERT}")
        expected = layout.align(expected + found[name].nbytes)
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size != expected:
        raise ModelFolderError(f"{path}: does not end on a whole page; {RECONVERT}")
    return {name: found[name] for name in specs}


def _check_scales(path: Path, tensors: dict[str, StoredTensor]) -> None:
    for name, tensor in tensors.items():
        if not (layout.is_expert(name) and name.endswith(".scales")):
            continue
        buffer = memoryview(bytearray(min(_SCAN_BYTES, tensor.nbytes)))
        with _opened(path) as file:
            file.seek(tensor.offset)
            for start in range(0, tensor.nbytes, len(buffer)):
                block = buffer[: tensor.nbytes - start]
                _read_into(file, block, path)
                if (largest := int(np.frombuffer(block, np.uint8).max())) > layout.MAX_SCALE:
                    raise ModelFolderError(
                        f"{path}: tensor '{name}' has an MXFP4 scale of {largest}, "
                        f"at most {layout.MAX_SCALE} is usable; {RECONVERT}"
                    )


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """Open a file unbuffered. Raise an OSError of the context, such as a removed disk, as a ModelFolderError."""
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path}: missing; {RECONVERT}") from error
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror}); check the disk, or {RECONVERT}") from error


def _read_into(file: Any, block: memoryview, path: Path) -> None:
    while block:
        count = file.readinto(block)
        if not count:
            raise ModelFolderError(f"{path}: truncated while it was read; {RECONVERT}")
        block = block[count:]
