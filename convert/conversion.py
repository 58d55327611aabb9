"""Convert a checkpoint: read every tensor once, in blocks of rows, and write it once.

Experts, router, norms and sinks keep their bits where the source has those of the published form. The large dense
matrices become q8 or stay bf16.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.assembly import ROUNDED, Assembly
from convert.atomic_folder import atomic_folder
from convert.pieces import ByteProgress, Reader, counting
from convert.sources import Checkpoint, open_checkpoint
from convert.sources.checkpoint import check_lfs_pointer
from gptoss_mlx import __version__
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import CheckpointError, UsageError
from gptoss_mlx.files import nbytes_in
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder, layout
from gptoss_mlx.model_folder.writer import shard_nbytes, write_metadata
from gptoss_mlx.tokenizer_files.formats import O200K_NAMED


@dataclass(frozen=True)
class Report:
    """The result of a conversion. ``tokenizer`` is "checkpoint", "bundled" (the published models') or None.

    ``unknown_fields`` names the fields of config.json that are no part of a gpt-oss config. They were not used.
    ``experts`` says how the experts became MXFP4. ``losses`` says in which way the weights are no longer those that
    were published, a line for each.
    """

    destination: Path
    layout: str
    config: ModelConfig
    unknown_fields: tuple[str, ...]
    experts: str
    losses: tuple[str, ...]
    dense: str
    tokenizer: str | None
    tensors: int
    bytes_read: int
    bytes_written: int
    seconds: float


def convert(
    source: str | Path, destination: str | Path, *, dense: str = "q8", progress: ByteProgress | None = None
) -> Report:
    """Convert a checkpoint, of any layout in ``convert.sources``, into a new model folder.

    ``dense`` is "q8" (affine, groups of 64) or "bf16": how attention, embedding and head are stored. ``progress`` is
    called with (source bytes read, source bytes in all). Peak memory is a few hundred MB for every model.

    Raises CheckpointError when the source is unusable or changes meanwhile, StorageError when the destination is
    unusable, UsageError for an unknown ``dense``. After any exception, even KeyboardInterrupt, nothing is left at or
    beside the destination.
    """
    start = time.monotonic()
    check_dense(dense)
    checkpoint = open_checkpoint(Path(source))
    reader = Reader(counting(progress, checkpoint.nbytes))
    tokenizer = tokenizer_of(checkpoint)
    with atomic_folder(Path(destination), converted_nbytes(checkpoint.config, dense)) as folder:
        with Assembly(folder, checkpoint.config, checkpoint.pieces, dense) as assembly:
            for piece in checkpoint.pieces:
                assembly.add(piece, reader)
        experts, lost = checkpoint.experts(reader.tally), losses(checkpoint, reader.tally)
        # Links are not followed, because the Hub's cache links a file to one that is named by its hash.
        origin = {"folder": Path(os.path.abspath(checkpoint.folder)).name, "sha256": reader.digests}
        origin |= {"experts": experts, "losses": lost}
        finish(folder, checkpoint, tokenizer[0], origin, assembly.digests, dense)
        checkpoint.check_unchanged()
        written = nbytes_in(folder)
    return Report(
        destination=Path(destination),
        layout=checkpoint.layout,
        config=checkpoint.config,
        unknown_fields=checkpoint.unknown_fields,
        experts=experts,
        losses=lost,
        dense=dense,
        tokenizer=tokenizer[1],
        tensors=len(assembly.digests),
        bytes_read=checkpoint.nbytes,
        bytes_written=written,
        seconds=time.monotonic() - start,
    )


def check_dense(dense: str) -> None:
    """Raise UsageError for what dense weights cannot be stored as."""
    if dense not in layout.DENSE_CHOICES:
        raise UsageError(f"dense is {dense!r}; use one of {', '.join(layout.DENSE_CHOICES)}")


def converted_nbytes(config: ModelConfig, dense: str) -> int:
    """Return about how many bytes a model folder takes on disk."""
    return sum(map(shard_nbytes, layout.shards(config, dense)))


def finish(
    folder: Path,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None,
    origin: Mapping[str, Any],
    digests: Mapping[str, str],
    dense: str,
) -> None:
    """Write what a model folder has beside its shards, and check that it can be opened.

    ``origin`` says where the weights are from, with the ``sha256`` of every tensor of the checkpoint, and what a report
    has as ``experts`` and ``losses``. ``digests`` has the sha256 of every tensor in the folder.
    """
    generation = checkpoint.generation if checkpoint.generation is not None else _generation_defaults(tokenizer)
    if tokenizer:
        tokenizer.save(folder / layout.TOKENIZER)
    source = {"layout": checkpoint.layout, **origin}
    tool = f"gptoss-mac {__version__}"
    write_metadata(folder, checkpoint.config, generation, dense=dense, digests=digests, source=source, tool=tool)
    ModelFolder.open(folder)


def losses(checkpoint: Checkpoint, tally: Mapping[str, float]) -> tuple[str, ...]:
    """Return in which way the weights are no longer the source's, or the source's no longer those published."""
    rounded = [name.removeprefix(ROUNDED) for name, count in tally.items() if name.startswith(ROUNDED) and count]
    lines = checkpoint.losses(tally)
    if rounded:
        lines += (f"float32 values of {len(rounded)} tensors, such as {rounded[0]}, are rounded to bfloat16",)
    return lines


def tokenizer_of(checkpoint: Checkpoint) -> tuple[Tokenizer | None, str | None]:
    """Return the checkpoint's tokenizer and "checkpoint", or the published one and "bundled", or Nones.

    The published one is used where the checkpoint has the same, or has none and it fits.

    Raises CheckpointError when the checkpoint's cannot be read or has more ids than the embedding has rows.
    """
    vocab = checkpoint.config.vocab_size
    said = "checkpoint"
    if checkpoint.tokenizer is not None:
        where = checkpoint.folder
        tokenizer = checkpoint.tokenizer()
        if O200K_NAMED.items() <= tokenizer.special.items() and tokenizer.digest == Tokenizer.bundled().digest:
            said = "bundled"
    elif checkpoint.tokenizer_json is not None:
        where = checkpoint.tokenizer_json
        try:
            check_lfs_pointer(where)
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
        tokenizer = Tokenizer.from_file(where)
    else:
        bundled = Tokenizer.bundled()
        return (bundled, "bundled") if bundled.vocab_size <= vocab else (None, None)
    if tokenizer.vocab_size > vocab:
        raise CheckpointError(
            f"{where}: has ids up to {tokenizer.vocab_size - 1:,}, "
            f"config.json's vocab_size is {vocab:,}; get both from the same checkpoint"
        )
    return tokenizer, said


def _generation_defaults(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the published generation_config.json's values, for a layout that has no such file."""
    if tokenizer is None:
        return {"do_sample": True}
    special = tokenizer.special
    stop = [special[marker] for marker in ("<|return|>", "<|endoftext|>", "<|call|>") if marker in special]
    named = {"bos_token_id": "<|startoftext|>", "pad_token_id": "<|endoftext|>"}
    ids = {key: special[marker] for key, marker in named.items() if marker in special}
    return {**ids, "do_sample": True, "eos_token_id": stop}
