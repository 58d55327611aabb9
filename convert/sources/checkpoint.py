"""Reading a checkpoint: a folder of safetensors files, in any layout.

A layout module says what each of its tensors must be and which tensor of ours it belongs to (``SourceSpec``), and how
those that do not have the published form become pieces (``Part``). This module finds the bytes and checks that no
tensor is missing, unknown, or of another shape. It also detects files that change while they are converted. It reads no
weights.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.pieces import REDOWNLOAD, Piece, SourceTensor, as_stored
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, quoted
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import GIT_LFS_POINTER, StoredTensor, read_header

TOKENIZER_JSON = "tokenizer.json"
_MAX_JSON = 64 << 20

Stamp = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class SourceSpec:
    """What a source tensor must be, and the tensor of ours (``target``) it belongs to.

    Source tensors of one target are stacked in order.
    """

    target: str
    dtypes: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Source tensors that are read together. ``specs`` says what each must be, and ``piece`` makes a piece of them."""

    specs: Mapping[str, SourceSpec]
    piece: Callable[[tuple[SourceTensor, ...]], Piece]


def bit_for_bit(tally: Mapping[str, float]) -> str:
    return "MXFP4, bit for bit"


def nothing_lost(tally: Mapping[str, float]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Weights:
    """What a layout makes of a folder's tensors: a Checkpoint's fields of the same names."""

    pieces: tuple[Piece, ...]
    experts: Callable[[Mapping[str, float]], str] = bit_for_bit
    losses: Callable[[Mapping[str, float]], tuple[str, ...]] = nothing_lost


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint. ``pieces`` make every tensor of a model folder, in the folder's order.

    ``unknown_fields`` names what config.json has beside a gpt-oss config. Nothing is made of it. ``losses`` says, from
    what a ``Reader`` has tallied, in which way the weights are no longer those that the model was published with.
    ``experts`` says how the experts became MXFP4, and what that changed.
    ``tokenizer`` makes the tokenizer of a source that has it in another form than tokenizer.json; it raises
    CheckpointError. ``folder`` is the file, for a source that is one.
    """

    layout: str
    folder: Path
    config: ModelConfig
    unknown_fields: tuple[str, ...]
    generation: dict[str, Any] | None
    tokenizer_json: Path | None
    pieces: tuple[Piece, ...]
    stamps: dict[Path, Stamp]
    losses: Callable[[Mapping[str, float]], tuple[str, ...]] = nothing_lost
    experts: Callable[[Mapping[str, float]], str] = bit_for_bit
    tokenizer: Callable[[], Tokenizer] | None = None

    @property
    def nbytes(self) -> int:
        return sum(source.tensor.nbytes for piece in self.pieces for source in piece.sources)

    def check_unchanged(self) -> None:
        """Raise CheckpointError when a file has changed since before the first was read.

        A change that keeps size, inode and modification time is not detected, nor one within the file system's tick.
        """
        now = stamps(self.stamps)
        for path, stamp in self.stamps.items():
            if now[path] != stamp:
                raise CheckpointError(f"{path}: changed while it was converted; convert again once nothing writes it")


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """Return device, inode, size in bytes and modification time in ns of each file, to detect changes.

    None stands for a file that cannot be found. Links are followed, because the files of a Hub cache are links.
    """
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def target_specs(config: ModelConfig) -> dict[str, SourceSpec]:
    """Return a spec for every unquantized tensor of a model folder, by name. Experts have the published shape."""
    found = {}
    for shard in layout.shards(config, "bf16"):
        for name, spec in shard.tensors.items():
            dtypes = spec.dtypes
            shape = spec.shape
            if dtypes == ("U32",):  # eight FP4 codes a word; published are blocks of 32 codes in 16 bytes
                dtypes = ("U8",)
                shape = (*shape[:-1], shape[-1] // 4, 16)
            found[name] = SourceSpec(name, dtypes, shape)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises CheckpointError when it is missing or damaged."""
    try:
        check_lfs_pointer(path)
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is too large")
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; {REDOWNLOAD}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); {REDOWNLOAD}") from error
    return raw


def check_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError when a file was cloned without Git LFS, and OSError when it cannot be read."""
    with path.open("rb") as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise CheckpointError(f"{path}: is a Git LFS pointer, not the file; run `git lfs pull` in that folder")


def read_headers(folder: Path) -> dict[str, SourceTensor]:
    """Return every tensor in the folder's safetensors files, by name. The index, if present, says which files to read.

    Raises CheckpointError when a file is damaged or missing, a name is there twice, or the index is wrong.
    """
    index = read_index(folder / layout.INDEX) if (folder / layout.INDEX).exists() else None
    files = sorted(set(index.values())) if index else _files_without_index(folder)
    headers = {file: read_header(folder / file, CheckpointError, REDOWNLOAD) for file in files}
    return join_headers(folder, headers, index)


def join_headers(
    folder: Path, headers: Mapping[str, Mapping[str, StoredTensor]], index: Mapping[str, str] | None
) -> dict[str, SourceTensor]:
    """Return every tensor of ``headers``, {file: {tensor: place}}, by name.

    Raises CheckpointError when a name is there twice, or when the index says that a tensor lies elsewhere.
    """
    found: dict[str, SourceTensor] = {}
    for file, tensors in headers.items():
        for name, tensor in tensors.items():
            if name in found:
                raise CheckpointError(
                    f"{folder / file}: tensor {name!r:.200} is in {found[name].file.name} too; {REDOWNLOAD}"
                )
            found[name] = SourceTensor(name, folder / file, tensor)
    for name, file in (index or {}).items():
        if name not in found or found[name].file.name != file:
            raise CheckpointError(
                f"{folder / file}: tensor {name!r:.200} is missing, {layout.INDEX} says it is there; {REDOWNLOAD}"
            )
    return found


def read_index(path: Path) -> dict[str, str]:
    """Return {tensor: file} of a checkpoint's index. Raises CheckpointError when it names anything but safetensors
    files of this folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map; {REDOWNLOAD}")
    for file in weight_map.values():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file) or not file.isprintable():
            raise CheckpointError(f"{path}: {quoted(file, 200)} is no shard's file name; {REDOWNLOAD}")
    return weight_map


def _files_without_index(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    for file in files:
        if numbered := re.fullmatch(r"(.*-)(\d+)-of-(\d+)\.safetensors", file):
            stem, first, count = numbered.groups()
            for number in range(1, min(int(count), 10_000) + 1):
                if (wanted := f"{stem}{number:0{len(first)}d}-of-{count}.safetensors") not in files:
                    raise CheckpointError(f"{folder / wanted}: missing; {REDOWNLOAD}")
    return files


def stored_parts(specs: Mapping[str, SourceSpec]) -> Iterator[Part]:
    """Yield a part for each source tensor of a layout, in order, where all have the published form."""
    rows: dict[str, int] = {}
    sources: dict[str, int] = {}
    for spec in specs.values():
        sources[spec.target] = sources.get(spec.target, 0) + 1
    for name, spec in specs.items():
        start = rows.get(spec.target, 0)
        rows[spec.target] = start + spec.shape[0]
        yield stored_part(name, spec, start, whole=sources[spec.target] == 1)


def stored_part(name: str, spec: SourceSpec, start: int, whole: bool) -> Part:
    """Return the part that one tensor of the source makes, as it is, of rows from ``start`` on of its target."""
    return Part({name: spec}, lambda found: as_stored(spec.target, start, found[0], whole))


def pieces_of(folder: Path, found: Mapping[str, SourceTensor], parts: Iterable[Part]) -> tuple[Piece, ...]:
    """Match what a layout expects with what the files hold.

    Raises CheckpointError when a tensor is missing, unknown, or of another dtype or shape.
    """
    parts = list(parts)
    check_complete(folder, found, (name for part in parts for name in part.specs))
    return tuple(part.piece(tuple(_checked(found[name], spec) for name, spec in part.specs.items())) for part in parts)


def _checked(source: SourceTensor, spec: SourceSpec) -> SourceTensor:
    if source.tensor.dtype not in spec.dtypes or source.tensor.shape != spec.shape:
        raise CheckpointError(
            f"{source.file}: tensor '{source.name}' is {source.tensor.dtype} {list(source.tensor.shape)}, "
            f"config.json needs {' or '.join(spec.dtypes)} {list(spec.shape)}; get the published checkpoint"
        )
    return source


def check_complete(folder: Path, found: Mapping[str, SourceTensor], wanted: Iterable[str]) -> None:
    """Raise CheckpointError unless the files hold the wanted tensors and no others."""
    wanted = list(wanted)
    if missing := [name for name in wanted if name not in found]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder}: tensor '{missing[0]}' is missing{more}; {REDOWNLOAD}")
    if extra := sorted(found.keys() - set(wanted)):
        file = found[extra[0]].file
        raise CheckpointError(f"{file}: tensor {extra[0]!r:.200} is not one of gpt-oss; get the published checkpoint")
