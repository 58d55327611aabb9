"""Small random models, converted and loaded."""

import json
from collections import defaultdict
from pathlib import Path

import gptoss_mlx
from convert import convert
from gptoss_mlx.fastest import Fastest
from gptoss_mlx.runtime import Runtime
from tests.support.checkpoints import hf_tensors, write_checkpoint, write_safetensors


def random_model(folder: Path, sizes: dict, seed: int = 0, dense: str = "bf16") -> Runtime:
    """Convert a random checkpoint of ``sizes`` to ``folder``/model, and return the model, loaded in float32."""
    convert(write_checkpoint(folder / "source", sizes, seed=seed), folder / "model", dense=dense)
    return gptoss_mlx.load(folder / "model", dtype="float32")


def always_ahead(runtime: Runtime, ahead: bool) -> None:
    """Have the steps of a model with paged experts always run ahead where they can, or never."""
    paged = runtime.model.weights.paged
    assert paged is not None, "loaded with slots"
    paged.ahead = defaultdict(lambda: Fastest((ahead,)))


def endless_model(folder: Path, sizes: dict, seed: int = 0) -> Path:
    """Return a model folder whose greedy replies are plain text that no marker ends, for every prompt and date.

    The head's rows for markers are zero, so their logits are 0, and some of hundreds of random logits are larger.
    """
    source = write_checkpoint(folder / "source", sizes, seed=seed)
    markers = [token["id"] for token in json.loads((source / "tokenizer.json").read_text())["added_tokens"]]
    tensors = list(hf_tensors(sizes, seed))
    next(bits for name, _, bits in tensors if name == "lm_head.weight")[markers] = 0
    write_safetensors(source / "model.safetensors", tensors)
    return convert(source, folder / "model", dense="bf16").destination
