"""Download a checkpoint and convert it as it arrives.

Of the source at most two files of weights are on the disk: one that is converted, and the next, which arrives
meanwhile. Each is deleted once no tensor needs it. Everything lies in the hidden folder of the model, whose journal
says which files are done, so that the next call goes on after any kind of end.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from convert.assembly import Assembly
from convert.atomic_folder import check_space, resumable_folder
from convert.conversion import Report, finish, losses, tokenizer_of
from convert.journal import JOURNAL, Line, read_journal, write_line
from convert.pieces import REDOWNLOAD, ByteProgress, Piece, Reader
from convert.remote import Remote
from convert.sources import Checkpoint, open_planned
from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError
from gptoss_mlx.files import nbytes_in, nbytes_on_disk, storage_errors
from gptoss_mlx.home import DOWNLOAD
from gptoss_mlx.hub import HubFile, Settings, fetch
from gptoss_mlx.hub.fetch import DEFAULTS
from gptoss_mlx.model_folder import ModelFolder, layout
from gptoss_mlx.model_folder.safetensors import read_header

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Watch:
    """Who follows a download. All are called from the thread of ``convert_remote``, except ``fetching``.

    ``fetching`` gets a file's name, how many of its bytes are there, and its size. ``converting`` gets the source bytes
    converted and all of them, ten times a second also while nothing is converted, and may raise to stop everything.
    ``say`` gets a line when what was there is thrown away.
    """

    fetching: Callable[[str, int, int], None] = lambda name, done, size: None
    converting: ByteProgress = lambda done, total: None
    say: Callable[[str], None] = lambda text: None


def convert_remote(remote: Remote, watch: Watch, *, settings: Settings = DEFAULTS) -> Report:
    """Download what is missing, convert it, and put the model folder in its place.

    After any exception what has arrived is kept, and the next call goes on. Raises HubError; StorageError, if the disk
    fails or has too little room; CheckpointError, if a tensor cannot be used.
    """
    start = time.monotonic()
    with resumable_folder(remote.destination) as folder:
        download = folder / DOWNLOAD
        here = remote.keep or download
        if not (download / JOURNAL).exists() and (model := _finished_before(remote, folder)):
            return _report_of(model, remote, start)
        with storage_errors(folder):
            lines = _earlier_lines(remote, folder, watch.say)
            check_space(remote.destination, remote.most - nbytes_on_disk(folder, here))
            if lines is None:
                download.mkdir()
                write_line(download / JOURNAL, remote.head)
            here.mkdir(parents=True, exist_ok=True)

        with _Arrival(remote, here, watch, settings) as arrival:
            for file in remote.small:
                arrival.wait(arrival.begin(file), 0, sum(weights.size for weights in remote.weights))
            checkpoint = open_planned(here, remote.headers)
            tokenizer = tokenizer_of(checkpoint)
            run = _Run(remote, checkpoint, download / JOURNAL, watch, arrival)
            digests = run.fill(folder, lines or [])
        experts, lost = checkpoint.experts(run.reader.tally), losses(checkpoint, run.reader.tally)
        origin = {"folder": remote.plan.repo_id, "commit": remote.plan.commit, "sha256": run.reader.digests}
        origin |= {"experts": experts, "losses": lost}
        finish(folder, checkpoint, tokenizer[0], origin, digests, remote.dense)
        with storage_errors(folder):
            shutil.rmtree(download)
        written = nbytes_in(folder)
    return Report(
        destination=remote.destination,
        layout=checkpoint.layout,
        config=checkpoint.config,
        unknown_fields=checkpoint.unknown_fields,
        experts=experts,
        losses=lost,
        dense=remote.dense,
        tokenizer=tokenizer[1],
        tensors=len(digests),
        bytes_read=checkpoint.nbytes,
        bytes_written=written,
        seconds=time.monotonic() - start,
    )


def _finished_before(remote: Remote, folder: Path) -> ModelFolder | None:
    """Return the model of a process that was killed when only the folder's name was missing. None if there is none, or
    if it is another one than is wanted now."""
    if not (folder / layout.MANIFEST).exists():
        return None
    try:
        model = ModelFolder.open(folder)
    except ModelFolderError:
        return None
    source = model.manifest["source"]
    made = source.get("folder"), source.get("commit"), model.manifest["quantization"]["dense"]
    return model if made == (remote.plan.repo_id, remote.plan.commit, remote.dense) else None


def _report_of(model: ModelFolder, remote: Remote, start: float) -> Report:
    folder, source = model.path, model.manifest["source"]
    with storage_errors(folder):
        shutil.rmtree(folder / DOWNLOAD, ignore_errors=True)
    return Report(
        destination=remote.destination,
        layout=source["layout"],
        config=model.config,
        unknown_fields=(),
        experts=source["experts"],
        losses=tuple(source["losses"]),
        dense=remote.dense,
        tokenizer="checkpoint" if (folder / layout.TOKENIZER).exists() else None,
        tensors=len(model.names()),
        bytes_read=0,
        bytes_written=nbytes_in(folder),
        seconds=time.monotonic() - start,
    )


def _earlier_lines(remote: Remote, folder: Path, say: Callable[[str], None]) -> list[Line] | None:
    """Return what the journal says of each finished file. Empty the folder and return None if there is no journal or if
    it is of another download."""
    journal = folder / DOWNLOAD / JOURNAL
    found = read_journal(journal)
    if found and found[0] == remote.head:
        for name in (layout.MANIFEST, layout.CONFIG, layout.GENERATION, layout.INDEX, layout.TOKENIZER):
            (folder / name).unlink(missing_ok=True)  # a kill came after the last tensor
        return found[1]
    if found:
        say("what was downloaded before is from another version or with other options, starting over")
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return None


class _StoppedError(Exception):
    """The thread that converts has ended, so the one that downloads shall."""


class _Arrival:
    """A thread that fetches files into the folder ``here``, while the context lasts."""

    def __init__(self, remote: Remote, here: Path, watch: Watch, settings: Settings) -> None:
        self._remote, self._here, self._watch, self._settings = remote, here, watch, settings
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "download")

    def __enter__(self) -> "_Arrival":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.shutdown()

    def begin(self, file: HubFile) -> "Future[None]":
        return self._thread.submit(self._fetch, file)

    def wait(self, arriving: "Future[None]", converted: int, total: int) -> None:
        """Wait until a file is there. Raises what fetching it raised, and what ``Watch.converting`` raises."""
        while not arriving.done():
            self._watch.converting(converted, total)
            wait([arriving], _POLL_SECONDS)
        arriving.result()

    def _fetch(self, file: HubFile) -> None:
        def progress(name: str, done: int, size: int) -> None:
            if self._stop.is_set():
                raise _StoppedError
            self._watch.fetching(name, done, size)

        target = self._here / file.name
        fetch(self._remote.plan, file, target, progress=progress, say=self._watch.say, settings=self._settings)


class _Run:
    """The weights of one download on their way into the model folder."""

    def __init__(self, remote: Remote, checkpoint: Checkpoint, journal: Path, watch: Watch, arrival: _Arrival) -> None:
        self._remote, self._checkpoint, self._journal = remote, checkpoint, journal
        self._watch, self._arrival = watch, arrival
        self._converted = 0
        self.reader = Reader(self._count)

    def fill(self, folder: Path, lines: list[Line]) -> dict[str, str]:
        """Fill the model folder's shards. Return the sha256 of each tensor. ``lines`` are those of the journal."""
        before: dict[str, dict[str, str]] = {}
        for line in lines:
            before |= line.pieces
            self.reader.digests |= line.sources
            self.reader.tally += Counter(line.tally)
        arrived = {line.file for line in lines}
        complete = {piece.key for piece in self._checkpoint.pieces if _files_of(piece) <= arrived}
        if before.keys() != complete:
            raise StorageError(f"{self._journal}: is damaged; remove {folder} and run the command again")
        left = [piece for piece in self._checkpoint.pieces if piece.key not in before]
        self._converted = self._checkpoint.nbytes - _nbytes(left)
        waiting = [file for file in self._remote.weights if file.name not in arrived]
        for file in self._remote.weights:
            if file.name in arrived:
                self._watch.fetching(file.name, file.size, file.size)
        assembly = Assembly(folder, self._checkpoint.config, self._checkpoint.pieces, self._remote.dense, before)
        with assembly:
            self._delete_needless(arrived, left)
            following = [self._arrival.begin(file) for file in waiting[:1]]
            for number, file in enumerate(waiting):
                self._arrival.wait(following.pop(), self._converted, self._checkpoint.nbytes)
                following += [self._arrival.begin(more) for more in waiting[number + 1 : number + 2]]
                arrived.add(file.name)
                left = self._convert(assembly, file, arrived, left)
        return assembly.digests

    def _convert(self, assembly: Assembly, file: HubFile, arrived: set[str], left: list[Piece]) -> list[Piece]:
        """Add the pieces that the arrival of a file has completed, and delete what none needs. Return the others."""
        path = self._path(file.name)
        if read_header(path, CheckpointError, REDOWNLOAD) != self._remote.headers[file.name]:
            raise CheckpointError(f"{path}: has another header than the Hub has shown; {REDOWNLOAD}")
        known, tally = set(self.reader.digests), Counter(self.reader.tally)
        ready = [piece for piece in left if _files_of(piece) <= arrived]
        done = {piece.key: assembly.add(piece, self.reader) for piece in ready}
        assembly.sync()
        line = Line(
            file=file.name,
            pieces=done,
            sources={name: digest for name, digest in self.reader.digests.items() if name not in known},
            tally={name: count - tally[name] for name, count in self.reader.tally.items()},
        )
        write_line(self._journal, line)
        left = [piece for piece in left if piece.key not in done]
        self._delete_needless(arrived, left)
        return left

    def _delete_needless(self, arrived: set[str], left: list[Piece]) -> None:
        if self._remote.keep is None:
            needed = {name for piece in left for name in _files_of(piece)}
            for name in arrived - needed:
                with storage_errors(self._path(name)):
                    self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._checkpoint.folder / name

    def _count(self, nbytes: int) -> None:
        self._converted += nbytes
        self._watch.converting(self._converted, self._checkpoint.nbytes)


def _files_of(piece: Piece) -> set[str]:
    return {source.file.name for source in piece.sources}


def _nbytes(pieces: list[Piece]) -> int:
    return sum(source.tensor.nbytes for piece in pieces for source in piece.sources)
