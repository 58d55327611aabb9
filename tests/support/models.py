"""Small random models, converted and loaded."""

from pathlib import Path

import gptoss_mlx
from convert import convert
from gptoss_mlx.runtime import Runtime
from tests.support.checkpoints import write_checkpoint


def random_model(folder: Path, sizes: dict, seed: int = 0, dense: str = "bf16") -> Runtime:
    """A random model of ``sizes`` under ``folder``/model, loaded in float32."""
    convert(write_checkpoint(folder / "source", sizes, seed=seed), folder / "model", dense=dense)
    return gptoss_mlx.load(folder / "model", dtype="float32")
