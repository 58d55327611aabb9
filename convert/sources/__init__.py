"""Open a checkpoint. Each layout of weights has a module; ``open_checkpoint`` detects which one lies at a path."""

from collections.abc import Mapping
from pathlib import Path

from convert.pieces import SourceTensor
from convert.sources import bf16, gguf, huggingface, mlx_lm, original, refused
from convert.sources.checkpoint import (
    REDOWNLOAD,
    TOKENIZER_JSON,
    Checkpoint,
    Stamp,
    join_headers,
    read_headers,
    read_index,
    read_json,
    stamps,
)
from gptoss_mlx.config import read_config
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model_folder.generation import problem_with
from gptoss_mlx.model_folder.layout import CONFIG, GENERATION, INDEX, MANIFEST
from gptoss_mlx.model_folder.safetensors import StoredTensor

LAYOUTS = {"mlx-lm": mlx_lm, "Hugging Face, experts in full": bf16, "Hugging Face": huggingface, "original": original}
"""In the order in which they are looked for, because the first two have the third's names, too."""

__all__ = ["Checkpoint", "open_checkpoint", "open_planned"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Find and check the checkpoint in folder ``path`` or its ``original/``, or the GGUF model at ``path``.

    Reads config and headers, no weights. Raises CheckpointError with one line that names the file and the remedy.
    """
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def open_planned(folder: Path, headers: Mapping[str, Mapping[str, StoredTensor]]) -> Checkpoint:
    """Check a checkpoint whose weights will be put into ``folder`` later. Its small files are there already, except
    tokenizer.json. ``headers`` are those of its safetensors files, {file: {tensor: place}}.

    Raises CheckpointError as ``open_checkpoint`` does.
    """
    index = read_index(folder / INDEX) if (folder / INDEX).exists() else None
    tokenizer = folder / TOKENIZER_JSON
    return _checkpoint(folder, join_headers(folder, headers, index), tokenizer if tokenizer.exists() else None, {})


def _open(path: Path) -> Checkpoint:
    if (not path.is_dir() or _safetensors_in(path) is None) and (parts := gguf.parts_at(path)):
        return gguf.open_gguf(path, parts)
    folder = _find(path)
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder}: is a model folder already; use it with --model, or name its checkpoint")
    small = [folder / name for name in (CONFIG, GENERATION, INDEX, TOKENIZER_JSON)]
    before = stamps([*small, path / TOKENIZER_JSON, *folder.glob("*.safetensors")])
    tokenizers = [place / TOKENIZER_JSON for place in (folder, path) if (place / TOKENIZER_JSON).exists()]
    return _checkpoint(folder, read_headers(folder), tokenizers[0] if tokenizers else None, before)


def _checkpoint(
    folder: Path, headers: Mapping[str, SourceTensor], tokenizer_json: Path | None, before: dict[Path, Stamp]
) -> Checkpoint:
    config_file = folder / CONFIG
    raw, headers = huggingface.untied(read_json(config_file), headers)
    refused.check_tensors(headers)
    config, unknown = read_config(raw, str(config_file))
    layout = next((name for name, module in LAYOUTS.items() if module.holds(headers)), None)
    if layout is None:
        wanted = f"'{huggingface.EMBEDDING}' (Hugging Face layout) nor '{original.EMBEDDING}' (original layout)"
        raise CheckpointError(f"{folder}: holds neither {wanted}; get the published checkpoint")
    weights = LAYOUTS[layout].weights(folder, headers, config)
    generation = read_json(folder / GENERATION) if (folder / GENERATION).exists() else None
    if generation and (problem := problem_with(generation)):
        raise CheckpointError(f"{folder / GENERATION}: {problem}; {REDOWNLOAD}")
    return Checkpoint(
        layout=layout,
        folder=folder,
        config=config,
        unknown_fields=unknown,
        generation=generation,
        tokenizer_json=tokenizer_json,
        pieces=weights.pieces,
        stamps=before,
        losses=weights.losses,
        experts=weights.experts,
    )


def _find(path: Path) -> Path:
    refused.check_path(path)
    if not path.is_dir():
        problem = "is no GGUF file" if path.exists() else "no such folder"
        raise CheckpointError(f"{path}: {problem}; name the folder that a checkpoint was downloaded to, or a GGUF file")
    if (folder := _safetensors_in(path)) is None:
        raise CheckpointError(
            f"{path}: no checkpoint here, looked for config.json and *.safetensors in it and in its original/, and for "
            "*.gguf; `gptoss-mac convert 20b` downloads one"
        )
    return folder


def _safetensors_in(path: Path) -> Path | None:
    for folder in (path, path / "original"):
        if (folder / INDEX).exists() or any(folder.glob("*.safetensors")):
            return folder
    return None
