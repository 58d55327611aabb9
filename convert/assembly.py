"""Fill the shards of a model folder piece by piece, in any order. Does not know where pieces come from."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from convert.pieces import REDOWNLOAD, Arrays, Piece, Q8Rows, Reader
from convert.repack import dequantize_rows, quantize_rows, round_to_bf16, words_from_blocks
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, StorageError
from gptoss_mlx.model_folder import layout
from gptoss_mlx.model_folder.writer import ShardWriter, TensorStream

ROUNDED = "rounded "
"""Before the name of a tensor in a reader's tally: how many of its float32 values are not bfloat16 numbers."""


class Assembly:
    """A context in which the shards of ``folder`` are filled. After it ``digests`` has every tensor's sha256.

    ``before`` has what ``add`` returned for each piece that an earlier process has added, by the piece's ``key``.
    Raises StorageError where a shard that these are in is gone.
    Leaving the context after an error leaves the files as they are; otherwise it raises ValueError unless every piece
    was added.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        pieces: Iterable[Piece],
        dense: str,
        before: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._folder = folder
        self._shards = {shard.file: shard for shard in layout.shards(config, dense)}
        self._file_of: dict[str, str] = {}
        self._rows: dict[str, int] = {}
        for shard in layout.shards(config, "bf16"):
            for name, spec in shard.tensors.items():
                self._file_of[name], self._rows[name] = shard.file, spec.shape[0]
        self._pieces: dict[str, list[Piece]] = {file: [] for file in self._shards}
        self._dtypes: dict[str, str] = {}
        for piece in pieces:
            target = piece.targets[0]
            self._pieces[self._file_of[target]].append(piece)
            if target.endswith("norm.weight"):
                self._dtypes[target] = piece.dtype
        self._added = dict(before or {})
        self._open: dict[str, ShardWriter] = {}
        # A shard waits for the disk in a thread while the next one is filled.
        self._thread = ThreadPoolExecutor(1, "sync")
        self._closing: list[Future[dict[str, str]]] = []
        self.digests: dict[str, str] = {}

    def __enter__(self) -> "Assembly":
        for file in self._shards:
            if self._is_full(file):
                self._writer(file)
                self._close(file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._thread:
            for writer in self._open.values():
                writer.__exit__(kind, error, trace)
        if kind is None:
            self._await_closing()

    def add(self, piece: Piece, reader: Reader) -> dict[str, str]:
        """Read a piece and write its rows. Return the sha256 of each tensor that it is all of, by name.

        Raises CheckpointError when the source is damaged, StorageError when the write fails.
        """
        file = self._file_of[piece.targets[0]]
        writer = self._writer(file)
        outputs = [self._outputs(writer, target) for target in piece.targets]
        self._move_to(piece, outputs)
        copied = piece.verbatim and len(outputs[0]) == 1
        if copied:
            outputs[0][0].expect_digest()
        for arrays in piece.read(reader):
            for target, streams, rows in zip(piece.targets, outputs, arrays, strict=True):
                for stream, array in zip(streams, self._packed(piece, target, rows, reader), strict=True):
                    stream.write(array)
        if copied:
            outputs[0][0].give_digest(reader.digests[piece.sources[0].name])
        all_rows = piece.rows == self._rows[piece.targets[0]]
        whole = {stream.name: stream.digest() for streams in outputs for stream in streams} if all_rows else {}
        self._added[piece.key] = whole
        if self._is_full(file):
            self._close(file)
        return whole

    def sync(self) -> None:
        """Wait until the pieces that were added are on the medium."""
        for writer in self._open.values():
            writer.sync()
        self._await_closing()

    def _is_full(self, file: str) -> bool:
        return all(piece.key in self._added for piece in self._pieces[file])

    def _move_to(self, piece: Piece, outputs: list[list[TensorStream]]) -> None:
        for target, streams in zip(piece.targets, outputs, strict=True):
            for stream in streams:
                stream.move(piece.start * (stream.nbytes // self._rows[target]))

    def _writer(self, file: str) -> ShardWriter:
        if file not in self._open:
            path = self._folder / file
            if any(piece.key in self._added for piece in self._pieces[file]) and not path.exists():
                raise StorageError(f"{path}: is gone; remove {self._folder} and run the command again")
            writer = ShardWriter(self._folder, self._shards[file], self._dtypes).__enter__()
            self._open[file] = writer
            for piece in self._pieces[file]:
                if piece.key not in self._added:
                    continue
                outputs = [self._outputs(writer, target) for target in piece.targets]
                self._move_to(piece, outputs)
                for target, streams in zip(piece.targets, outputs, strict=True):
                    for stream in streams:
                        stream.skip(piece.rows * (stream.nbytes // self._rows[target]))
                        if digest := self._added[piece.key].get(stream.name):
                            stream.give_digest(digest)
        return self._open[file]

    def _close(self, file: str) -> None:
        self._closing.append(self._thread.submit(_closed, self._open.pop(file)))

    def _await_closing(self) -> None:
        while self._closing:
            self.digests |= self._closing.pop().result()

    def _outputs(self, writer: ShardWriter, target: str) -> list[TensorStream]:
        """Return the streams that a tensor is written to: its own, and those of its scales and biases if it is q8."""
        stem = target.removesuffix("weight")
        q8 = not layout.is_expert(target) and f"{stem}scales" in writer.streams
        names = [target, f"{stem}scales", f"{stem}biases"] if q8 else [target]
        return [writer.streams[name] for name in names]

    def _packed(self, piece: Piece, target: str, rows: np.ndarray | Q8Rows, reader: Reader) -> Arrays:
        """Return published rows as a model folder has them."""
        file = self._file_of[target]
        q8 = not layout.is_expert(target) and target.removesuffix("weight") + "scales" in self._shards[file].tensors
        if isinstance(rows, Q8Rows):
            if q8:
                return rows
            rows = dequantize_rows(*rows)
        if layout.is_expert(target) and target.endswith(".weight"):
            return (words_from_blocks(rows),)
        if layout.is_expert(target) and target.endswith(".scales"):
            if rows.max() > layout.MAX_SCALE:
                source = piece.sources[-1]
                raise CheckpointError(
                    f"{source.file}: tensor '{source.name}' has an MXFP4 scale of {rows.max()}, "
                    f"at most {layout.MAX_SCALE} is usable; {REDOWNLOAD}"
                )
            return (rows,)
        if q8:
            return quantize_rows(rows)
        if rows.dtype == np.float32 and self._dtypes.get(target) != "F32":
            rows, changed = round_to_bf16(rows)
            reader.tally[ROUNDED + target] += changed
        return (rows,)


def _closed(writer: ShardWriter) -> dict[str, str]:
    writer.__exit__(None, None, None)
    return writer.digests
