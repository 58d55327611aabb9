"""Open a checkpoint. Each layout of weights has a module; ``open_checkpoint`` detects a folder's layout."""

from pathlib import Path

from convert.sources import bf16, huggingface, mlx_lm, original, refused
from convert.sources.checkpoint import (
    REDOWNLOAD,
    TOKENIZER_JSON,
    Checkpoint,
    read_headers,
    read_json,
    stamps,
)
from gptoss_mlx.config import read_config
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.model_folder.generation import problem_with
from gptoss_mlx.model_folder.layout import CONFIG, GENERATION, INDEX, MANIFEST
from gptoss_mlx.published import download_command

LAYOUTS = {"mlx-lm": mlx_lm, "Hugging Face, experts in full": bf16, "Hugging Face": huggingface, "original": original}
"""In the order in which they are looked for, because the first two have the third's names, too."""

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Find and check the checkpoint in ``path`` or its ``original/``. Reads config and headers, no weights.

    Raises CheckpointError with one line that names the file and the remedy.
    """
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def _open(path: Path) -> Checkpoint:
    folder = _find(path)
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder}: is a model folder already; use it with --model, or name its checkpoint")
    small = [folder / name for name in (CONFIG, GENERATION, INDEX, TOKENIZER_JSON)]
    before = stamps([*small, path / TOKENIZER_JSON, *folder.glob("*.safetensors")])
    config_file = folder / CONFIG
    raw = read_json(config_file)
    raw, headers = huggingface.untied(raw, read_headers(folder))
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
    tokenizers = [place / TOKENIZER_JSON for place in (folder, path) if (place / TOKENIZER_JSON).exists()]
    return Checkpoint(
        layout=layout,
        folder=folder,
        config=config,
        unknown_fields=unknown,
        generation=generation,
        tokenizer_json=tokenizers[0] if tokenizers else None,
        pieces=weights.pieces,
        stamps=before,
        losses=weights.losses,
        experts=weights.experts,
    )


def _find(path: Path) -> Path:
    refused.check_path(path)
    if not path.is_dir():
        problem = "is a file" if path.exists() else "no such folder"
        raise CheckpointError(f"{path}: {problem}; name the folder that a checkpoint was downloaded to")
    for folder in (path, path / "original"):
        if (folder / INDEX).exists() or any(folder.glob("*.safetensors")):
            return folder
    raise CheckpointError(
        f"{path}: no checkpoint here, looked for config.json and *.safetensors in it and in its original/; "
        f"get one with `{download_command('20b')}`"
    )
