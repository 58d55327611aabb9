"""A checkpoint on the Hub before it is downloaded: whether it can be converted, and what getting it will take."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from convert.conversion import check_dense, converted_nbytes
from convert.journal import JOURNAL, Head, read_journal
from convert.pieces import Piece
from convert.sources import Checkpoint, open_planned
from convert.sources.checkpoint import read_index
from gptoss_mlx import __version__
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.files import nbytes_on_disk
from gptoss_mlx.home import DOWNLOAD, hidden_folder
from gptoss_mlx.hub import HubFile, Plan, Settings, fetch, list_files, measure_rate, read_beginnings
from gptoss_mlx.hub.fetch import DEFAULTS
from gptoss_mlx.hub.plan import NoRevisionError
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.safetensors import StoredTensor, header_length, parse_header

_REMEDY = "get the published checkpoint"
_HEADER_GUESS = 256 << 10
_MOST_SMALL = 64 << 20
"""Bytes of a config or an index. More cannot be right."""


@dataclass(frozen=True)
class Remote:
    """A checkpoint on the Hub, which its headers show to be one, and what it takes to get it.

    ``weights`` is in the order in which the files will be converted. The source's files will be kept in ``keep``, or
    deleted if it is None. ``there`` bytes of them have been fetched before. ``most`` bytes of the disk are taken at
    most, ``after`` bytes at the end, ``taken`` bytes already. ``rate`` is in bytes per second.
    """

    plan: Plan
    headers: dict[str, dict[str, StoredTensor]]
    weights: tuple[HubFile, ...]
    destination: Path
    dense: str
    keep: Path | None
    there: int
    most: int
    after: int
    taken: int
    rate: float

    @property
    def head(self) -> Head:
        """What the journal begins with."""
        keep = str(self.keep) if self.keep else None
        return Head(self.plan.repo_id, self.plan.commit, self.dense, __version__, keep)

    @property
    def small(self) -> tuple[HubFile, ...]:
        """The files beside the weights."""
        return tuple(file for file in self.plan.files if file not in self.weights)

    @property
    def seconds(self) -> float:
        """How long the rest of the download takes at the measured rate."""
        return (self.plan.nbytes - self.there) / self.rate


def look(
    repo_id: str,
    destination: Path,
    *,
    dense: str = "q8",
    keep: Path | None = None,
    endpoint: str | None = None,
    settings: Settings = DEFAULTS,
) -> Remote:
    """Ask the Hub for a checkpoint and check it, from its config and the headers of its weights. Leaves no file.

    If a download to ``destination`` with these options is unfinished, the commit is the one that it began with, unless
    that is gone. Raises HubError, and CheckpointError if the checkpoint cannot be converted.
    """
    check_dense(dense)
    download = hidden_folder(destination) / DOWNLOAD
    head, lines = read_journal(download / JOURNAL) or (None, [])
    wanted = Head(repo_id, head.commit if head else "main", dense, __version__, str(keep) if keep else None)
    attempts = min(4, settings.attempts)
    try:
        plan = list_files(repo_id, wanted.commit if head == wanted else "main", endpoint=endpoint, attempts=attempts)
    except NoRevisionError:
        if head != wanted:
            raise
        plan = list_files(repo_id, endpoint=endpoint, attempts=attempts)
    plan, headers, checkpoint = _open(plan, settings)
    weights = _in_order(plan, checkpoint)
    goes_on = head == replace(wanted, commit=plan.commit)
    done = {line.file for line in lines} if goes_on else set()
    here = keep or download
    left = (file.size if file.name in done else _nbytes_there(here / file.name, file) for file in plan.files)
    there = sum(left) if goes_on or keep else 0  # else what is there will be deleted
    after = converted_nbytes(checkpoint.config, dense) + (plan.nbytes if keep else 0)
    return Remote(
        plan=plan,
        headers=headers,
        weights=weights,
        destination=destination,
        dense=dense,
        keep=keep,
        there=there,
        most=after if keep else after + _most_at_once(weights, checkpoint.pieces) + _small_nbytes(plan, weights),
        after=after,
        taken=nbytes_on_disk(hidden_folder(destination), here),
        rate=measure_rate(plan, weights[0], settings=settings),
    )


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _headers(plan: Plan, settings: Settings) -> dict[str, dict[str, StoredTensor]]:
    wanted = {file: _HEADER_GUESS for file in plan.files if is_weights(file.name)}
    found = read_beginnings(plan, wanted, settings=settings)
    lengths = {
        file: header_length(start, file.size, Path(file.name), CheckpointError, _REMEDY)
        for file, start in found.items()
    }
    longer = {file: 8 + length for file, length in lengths.items() if 8 + length > _HEADER_GUESS}
    if longer:
        found |= read_beginnings(plan, longer, settings=settings)
    return {
        file.name: parse_header(found[file][8 : 8 + length], file.size, Path(file.name), CheckpointError, _REMEDY)
        for file, length in lengths.items()
    }


def _open(plan: Plan, settings: Settings) -> tuple[Plan, dict[str, dict[str, StoredTensor]], Checkpoint]:
    """Return a plan without the files of weights that the index does not name, the headers, and the checkpoint."""
    with tempfile.TemporaryDirectory(prefix="gptoss-mac-") as place:
        folder = Path(place)
        for file in plan.files:
            if file.name in (layout.CONFIG, layout.GENERATION, layout.INDEX):
                if file.size > _MOST_SMALL:
                    raise CheckpointError(f"{plan.repo_id}: {file.name} has {file.size:,} bytes, which cannot be right")
                fetch(plan, file, folder / file.name, settings=settings)
        try:
            if (folder / layout.INDEX).exists():
                named = set(read_index(folder / layout.INDEX).values())
                kept = tuple(file for file in plan.files if file.name in named or not is_weights(file.name))
                plan = replace(plan, files=kept)
            headers = _headers(plan, settings)
            return plan, headers, open_planned(folder, headers)
        except CheckpointError as error:  # the folder's name tells the user nothing
            raise CheckpointError(str(error).replace(place, plan.repo_id)) from error


def _in_order(plan: Plan, checkpoint: Checkpoint) -> tuple[HubFile, ...]:
    """Return the files of weights in the order in which the model folder's tensors need them."""
    names = dict.fromkeys(source.file.name for piece in checkpoint.pieces for source in piece.sources)
    files = {file.name: file for file in plan.files}
    return tuple(files[name] for name in names)


def _most_at_once(weights: tuple[HubFile, ...], pieces: Iterable[Piece]) -> int:
    """Return how many bytes of weights are on the disk at most: a file that is converted, the next one, which arrives
    meanwhile, and those that a tensor still needs together with a later one."""
    size = {file.name: file.size for file in weights}
    place = {file.name: number for number, file in enumerate(weights)}
    last_use = dict(place)
    for piece in pieces:
        names = [source.file.name for source in piece.sources]
        ready = max(place[name] for name in names)
        for name in names:
            last_use[name] = max(last_use[name], ready)
    return max(
        sum(size[name] for name in place if place[name] <= now + 1 and last_use[name] >= now)
        for now in range(len(weights))
    )


def _small_nbytes(plan: Plan, weights: tuple[HubFile, ...]) -> int:
    return plan.nbytes - sum(file.size for file in weights)


def _nbytes_there(path: Path, file: HubFile) -> int:
    """Return about how many bytes of a file an earlier download has left."""
    for name in (path, path.with_name(f"{path.name}.part")):
        try:
            return min(file.size, os.stat(name).st_blocks * 512)
        except OSError:
            continue
    return 0
