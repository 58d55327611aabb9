"""What both published layouts share: a folder of safetensors shards, and how its tensors become ours.

A layout says which tensor of ours each of its tensors is part of (``Part``); this module finds the bytes and checks
that nothing is missing, unknown, or of another shape. It also tells whether the files are still those it found.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, quoted
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import GIT_LFS_POINTER, Tensor, read_header

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
REMEDY = "download it again"
_MAX_JSON = 64 << 20

Stamp = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class Part:
    """What a source tensor must be, and whose rows it holds. Parts of one target are stacked in order."""

    target: str
    dtypes: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A source tensor and where its bytes are."""

    name: str
    file: Path
    tensor: Tensor


@dataclass(frozen=True)
class Source:
    """A checked checkpoint. ``tensors`` maps a model folder's unquantized names to the pieces each is stacked from."""

    layout: str
    folder: Path
    config: ModelConfig
    generation: dict[str, Any] | None
    tokenizer_json: Path | None
    tensors: dict[str, tuple[Piece, ...]]
    stamps: dict[Path, Stamp]

    @property
    def nbytes(self) -> int:
        return sum(piece.tensor.nbytes for pieces in self.tensors.values() for piece in pieces)

    def check_unchanged(self) -> None:
        """Raise CheckpointError when a file is no longer what it was before the first was read.

        A change that keeps size, inode and modification time is not seen; nor is one within the file system's tick.
        """
        now = stamps(self.stamps)
        for path, stamp in self.stamps.items():
            if now[path] != stamp:
                raise CheckpointError(f"{path}: changed while it was converted; convert again once nothing writes it")


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """What tells a file from another version of itself: device, inode, size in bytes, and modification time in ns.

    None stands for a file that cannot be found. A link is followed: a Hub cache's files are links.
    """
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def targets(config: ModelConfig) -> dict[str, Part]:
    """Every unquantized tensor of a model folder, as a part that is the whole of it; experts as published blocks."""
    found = {}
    for shard in layout.shards(config, "bf16"):
        for name, spec in shard.tensors.items():
            dtypes, shape = spec.dtypes, spec.shape
            if dtypes == ("U32",):  # eight FP4 codes a word; published as blocks of 32 codes in 16 bytes
                dtypes, shape = ("U8",), (*shape[:-1], shape[-1] // 4, 16)
            found[name] = Part(name, dtypes, shape)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError when it is missing or damaged."""
    try:
        check_lfs_pointer(path)
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is too large")
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); {REMEDY}") from error
    return raw


def check_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError when a file was cloned without Git LFS, and OSError when it cannot be read."""
    with path.open("rb") as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise CheckpointError(f"{path}: is a Git LFS pointer, not the file; run `git lfs pull` in that folder")


def read_headers(folder: Path) -> dict[str, Piece]:
    """Every tensor in the folder's shards. The index, where there is one, says which files those are."""
    index = _read_index(folder / INDEX) if (folder / INDEX).exists() else None
    files = sorted(set(index.values())) if index else _files_without_index(folder)
    found: dict[str, Piece] = {}
    for file in files:
        for name, tensor in read_header(folder / file, CheckpointError, REMEDY).items():
            if name in found:
                raise CheckpointError(
                    f"{folder / file}: tensor {name!r:.200} is in {found[name].file.name} too; {REMEDY}"
                )
            found[name] = Piece(name, folder / file, tensor)
    for name, file in (index or {}).items():
        if name not in found or found[name].file.name != file:
            raise CheckpointError(
                f"{folder / file}: tensor {name!r:.200} is missing, {INDEX} says it is there; {REMEDY}"
            )
    return found


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map; {REMEDY}")
    for file in weight_map.values():
        # A file of this folder and of no other, whatever the index says.
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file) or not file.isprintable():
            raise CheckpointError(f"{path}: {quoted(file, 200)} is no shard's file name; {REMEDY}")
    return weight_map


def _files_without_index(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    for file in files:
        if numbered := re.fullmatch(r"(.*-)(\d+)-of-(\d+)\.safetensors", file):
            stem, digits, count = numbered[1], len(numbered[2]), numbered[3]
            for number in range(1, min(int(count), 10_000) + 1):
                if (wanted := f"{stem}{number:0{digits}d}-of-{count}.safetensors") not in files:
                    raise CheckpointError(f"{folder / wanted}: missing; {REMEDY}")
    return files


def assign(folder: Path, found: Mapping[str, Piece], parts: Mapping[str, Part]) -> dict[str, tuple[Piece, ...]]:
    """Match a layout's parts with what the shards hold."""
    if missing := [name for name in parts if name not in found]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder}: tensor '{missing[0]}' is missing{more}; {REMEDY}")
    if extra := sorted(found.keys() - parts.keys()):
        file = found[extra[0]].file
        raise CheckpointError(f"{file}: tensor {extra[0]!r:.200} is not one of gpt-oss; get the published checkpoint")
    tensors: dict[str, tuple[Piece, ...]] = {}
    for name, part in parts.items():
        piece = found[name]
        if piece.tensor.dtype not in part.dtypes or piece.tensor.shape != part.shape:
            raise CheckpointError(
                f"{piece.file}: tensor '{name}' is {piece.tensor.dtype} {list(piece.tensor.shape)}, "
                f"config.json needs {' or '.join(part.dtypes)} {list(part.shape)}; get the published checkpoint"
            )
        tensors[part.target] = (*tensors.get(part.target, ()), piece)
    return tensors
