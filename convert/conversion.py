"""Convert a checkpoint: read every tensor once, in blocks of rows, and write it once.

Experts, router, norms and sinks keep their bits. The large dense matrices become q8 or stay bf16.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.atomic_folder import atomic_folder
from convert.repack import quantize_rows, words_from_blocks
from convert.sources import Checkpoint, open_checkpoint
from convert.sources.checkpoint import REDOWNLOAD, SourceTensor, check_lfs_pointer
from gptoss_mlx import __version__
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, UsageError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder, layout
from gptoss_mlx.model_folder.writer import ShardWriter, shard_nbytes, write_metadata

NUMPY_DTYPE = {"BF16": np.uint16, "F32": np.float32, "U32": np.uint32, "U8": np.uint8}
BLOCK_BYTES = 16 << 20
"""Bytes read at once. Quantizing them needs about five times as much memory."""

ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """The result of a conversion. ``tokenizer`` is "checkpoint", "bundled" (the published models') or None.

    ``unknown_fields`` names the fields of config.json that are no part of a gpt-oss config. They were not used.
    """

    destination: Path
    layout: str
    config: ModelConfig
    unknown_fields: tuple[str, ...]
    dense: str
    tokenizer: str | None
    tensors: int
    bytes_read: int
    bytes_written: int
    seconds: float


def convert(
    source: str | Path, destination: str | Path, *, dense: str = "q8", progress: ByteProgress | None = None
) -> Report:
    """Convert a published checkpoint (Hugging Face or ``original/`` layout) into a new model folder.

    ``dense`` is "q8" (affine, groups of 64) or "bf16": how attention, embedding and head are stored. ``progress`` is
    called with (source bytes read, source bytes in all). Peak memory is a few hundred MB for every model.

    Raises CheckpointError when the source is unusable or changes meanwhile, StorageError when the destination is
    unusable, UsageError for an unknown ``dense``. After any exception, even KeyboardInterrupt, nothing is left at or
    beside the destination.
    """
    start = time.monotonic()
    if dense not in layout.DENSE_CHOICES:
        raise UsageError(f"dense is {dense!r}; use one of {', '.join(layout.DENSE_CHOICES)}")
    checkpoint = open_checkpoint(Path(source))
    tokenizer, tokenizer_from = _tokenizer(checkpoint)
    generation = checkpoint.generation if checkpoint.generation is not None else _generation_defaults(tokenizer)
    shards = layout.shards(checkpoint.config, dense)
    meter = _Meter(checkpoint.nbytes, progress)

    with atomic_folder(Path(destination), sum(map(shard_nbytes, shards))) as folder:
        digests: dict[str, str] = {}
        source_digests: dict[str, str] = {}
        for shard, plain in zip(shards, layout.shards(checkpoint.config, "bf16"), strict=True):
            norms = [name for name, spec in plain.tensors.items() if len(spec.dtypes) > 1]
            dtypes = {name: checkpoint.tensors[name][0].tensor.dtype for name in norms}
            with ShardWriter(folder, shard, dtypes) as writer:
                for name in plain.tensors:
                    source_digests |= _write(writer, name, checkpoint.tensors[name], meter)
            digests |= writer.digests
        if tokenizer:
            tokenizer.save(folder / layout.TOKENIZER)
        origin = {"layout": checkpoint.layout, "folder": checkpoint.folder.resolve().name, "sha256": source_digests}
        tool = f"gptoss-mac {__version__}"
        write_metadata(folder, checkpoint.config, generation, dense=dense, digests=digests, source=origin, tool=tool)
        ModelFolder.open(folder)
        checkpoint.check_unchanged()
        written = sum(path.stat().st_size for path in folder.iterdir())
    return Report(
        destination=Path(destination),
        layout=checkpoint.layout,
        config=checkpoint.config,
        unknown_fields=checkpoint.unknown_fields,
        dense=dense,
        tokenizer=tokenizer_from,
        tensors=len(digests),
        bytes_read=checkpoint.nbytes,
        bytes_written=written,
        seconds=time.monotonic() - start,
    )


@dataclass
class _Meter:
    total: int
    report: ByteProgress | None
    done: int = 0

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self.report:
            self.report(self.done, self.total)


def _write(writer: ShardWriter, name: str, sources: tuple[SourceTensor, ...], meter: _Meter) -> dict[str, str]:
    """Write one tensor, stacked from its source tensors, into the shard. Return each source's sha256 by name."""
    stem = name.removesuffix("weight")
    quantized = not layout.is_expert(name) and f"{stem}scales" in writer.streams
    names = [name, f"{stem}scales", f"{stem}biases"] if quantized else [name]
    outputs = [writer.streams[output] for output in names]
    digests = {}
    for source in sources:
        digest = hashlib.sha256()
        copied_whole = not quantized and len(sources) == 1  # then the output's hash is the source's
        for rows in _blocks_of_rows(source):
            if not copied_whole:
                digest.update(rows.data)
            arrays: tuple[np.ndarray, ...] = (rows,)
            if quantized:
                arrays = quantize_rows(rows)
            elif rows.ndim == 3:
                arrays = (words_from_blocks(rows),)
            elif name.endswith(".scales") and rows.max() > layout.MAX_SCALE:
                raise CheckpointError(
                    f"{source.file}: tensor '{source.name}' has an MXFP4 scale of {rows.max()}, "
                    f"at most {layout.MAX_SCALE} is usable; {REDOWNLOAD}"
                )
            for output, array in zip(outputs, arrays, strict=True):
                output.write(array)
            meter.add(rows.nbytes)
        digests[source.name] = outputs[0].sha256 if copied_whole else digest.hexdigest()
    return digests


def _blocks_of_rows(source: SourceTensor) -> Iterator[np.ndarray]:
    """Yield blocks of a tensor's rows, [rows, columns], or [rows, groups, 16] for MXFP4 codes, in one reused buffer."""
    tensor = source.tensor
    row_shape = tensor.shape[2:] if len(tensor.shape) == 4 else tensor.shape[-1:]
    dtype = np.dtype(NUMPY_DTYPE[tensor.dtype])
    row_bytes = dtype.itemsize * math.prod(row_shape)
    buffer = memoryview(bytearray(min(max(1, BLOCK_BYTES // row_bytes) * row_bytes, tensor.nbytes)))
    try:
        with source.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            for start in range(0, tensor.nbytes, len(buffer)):
                block = buffer[: tensor.nbytes - start]
                filled = 0
                while filled < len(block):
                    count = file.readinto(block[filled:])
                    if not count:
                        raise CheckpointError(f"{source.file}: truncated while it was read; {REDOWNLOAD}")
                    filled += count
                yield np.frombuffer(block, dtype).reshape(-1, *row_shape)
    except OSError as error:
        raise CheckpointError(f"{source.file}: cannot be read ({error.strerror})") from error


def _tokenizer(checkpoint: Checkpoint) -> tuple[Tokenizer | None, str | None]:
    """Return the checkpoint's tokenizer and "checkpoint", or the published one and "bundled" if it fits, or Nones."""
    vocab = checkpoint.config.vocab_size
    if checkpoint.tokenizer_json is None:
        bundled = Tokenizer.bundled()
        return (bundled, "bundled") if bundled.vocab_size <= vocab else (None, None)
    try:
        check_lfs_pointer(checkpoint.tokenizer_json)
    except OSError as error:
        raise CheckpointError(f"{checkpoint.tokenizer_json}: cannot be read ({error.strerror})") from error
    tokenizer = Tokenizer.from_file(checkpoint.tokenizer_json)
    if tokenizer.vocab_size > vocab:
        raise CheckpointError(
            f"{checkpoint.tokenizer_json}: has ids up to {tokenizer.vocab_size - 1:,}, "
            f"config.json's vocab_size is {vocab:,}; get both from the same checkpoint"
        )
    return tokenizer, "checkpoint"


def _generation_defaults(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the published generation_config.json's values, for a layout that has no such file."""
    if tokenizer is None:
        return {"do_sample": True}
    special = tokenizer.special
    stop = [special[marker] for marker in ("<|return|>", "<|endoftext|>", "<|call|>") if marker in special]
    named = {"bos_token_id": "<|startoftext|>", "pad_token_id": "<|endoftext|>"}
    ids = {key: special[marker] for key, marker in named.items() if marker in special}
    return {**ids, "do_sample": True, "eos_token_id": stop}
