"""What a model's folder says of how to talk with it: its hash, its tokenizer, the ids that end a reply, and how it is
sampled by default. Reads small files only, and imports no mlx, so that a program whose model runs elsewhere can use it.
"""

import hashlib
from pathlib import Path
from typing import Any, Protocol

from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.sampling import Sampling

STOP_MARKERS = ("<|return|>", "<|call|>", "<|endoftext|>")
INNER_MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
"""Harmony's markers inside a reply. None of them ends it, even if the model folder lists it as an end."""


class Folder(Protocol):
    """What is used of a model folder. ``generation`` are its generation defaults."""

    @property
    def path(self) -> Path: ...
    @property
    def generation(self) -> dict[str, Any]: ...
    @property
    def tokenizer_path(self) -> Path | None: ...


def model_hash(path: Path) -> str:
    """Return the SHA-256 of the manifest. It identifies the weights and the vocabulary, whose hashes are in it."""
    return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()


def load_tokenizer(folder: Folder) -> Tokenizer:
    """Load the checkpoint's tokenizer. Raises ModelFolderError if the folder was converted without one."""
    if folder.tokenizer_path is None:
        raise ModelFolderError(
            f"{folder.path}: has no tokenizer; put tokenizer.json beside the checkpoint and convert it again"
        )
    return Tokenizer.load(folder.tokenizer_path)


def stop_ids(folder: Folder, special: dict[str, int]) -> frozenset[int]:
    """Return the ids that end generation: those of STOP_MARKERS, and the folder's own except INNER_MARKERS.
    ``special`` has the ids of markers. ``<|end|>`` ends a message, most often the thought, and another follows it.
    ``<|call|>`` must stop generation, because a model that continues after it invents the tool's result."""
    stops = {special[marker] for marker in STOP_MARKERS if marker in special}
    own = folder.generation.get("eos_token_id")
    listed = {own} if isinstance(own, int) else set(own or ())
    return frozenset(stops | listed - {special[marker] for marker in INNER_MARKERS if marker in special})


def default_sampling(folder: Folder, given: dict[str, float | None], seed: int | None) -> Sampling:
    """Return a Sampling of the ``given`` values, with the folder's generation defaults in place of None."""
    defaults = folder.generation
    own = {name: defaults[name] for name in given if defaults.get(name) is not None}
    if defaults.get("do_sample") is False:  # how Hugging Face's configs say greedy
        own["temperature"] = 0.0
    return Sampling(**own | {name: value for name, value in given.items() if value is not None}, seed=seed)
