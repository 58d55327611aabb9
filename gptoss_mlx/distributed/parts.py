"""What every rank does with its part of a model: say what it is and what it has, and load its layers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx import __version__, bundled, machine
from gptoss_mlx.distributed.plan import Room
from gptoss_mlx.home import BUNDLED
from gptoss_mlx.installed import find_model
from gptoss_mlx.kernel_check import replace_wrong_shaders
from gptoss_mlx.memory.allocators import limit_allocators
from gptoss_mlx.memory.here import backend_here
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.weights import DTYPES, load_weights
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.traits import model_hash
from metal_kernels import launch
from metal_kernels.cpu.library import cores


@dataclass(frozen=True)
class Part:
    """What a rank loads: the ``layers`` from the first up to the last, in ``slots`` if not all experts are in memory,
    for contexts of ``context`` tokens. MLX may keep ``cache`` bytes for reuse."""

    layers: tuple[int, int]
    slots: int | None
    context: int
    dtype: str
    cache: int

    def load(self, folder: ModelFolder, *, ends: bool, progress: Callable[[int, int], None] | None = None) -> Decoder:
        """Load the part of ``folder``. Only rank 0 has the ``ends``: embedding, norm and head. ``progress`` is called
        with (bytes read, total)."""
        limit_allocators(self.cache)
        part = folder.part(range(*self.layers), ends=ends)
        dtype = DTYPES[self.dtype]
        config = replace(part.config, max_position_embeddings=self.context)
        decoder = Decoder(config, load_weights(part, dtype, progress, slots=self.slots))
        replace_wrong_shaders(decoder)
        return decoder


def opened(model: str) -> ModelFolder:
    """Open a model by its name or folder. Raises what finding and opening it raises."""
    if model == BUNDLED:
        bundled.install_tiny()
    return ModelFolder.open(find_model(model))


def likeness(folder: ModelFolder) -> dict[str, Any]:
    """Return what must be the same on every rank, by a name for it."""
    return {
        "gptoss-mac": __version__,
        "MLX": mx.__version__,  # type: ignore[attr-defined]
        "what computes": launch.where() or "plain MLX",
        "weights": model_hash(Path(folder.path)),
    }


def room(name: str, memory: int | None, sharing: int) -> Room:
    """Return what this process has for a part: ``memory`` bytes, or what is free here and ``sharing`` ranks share."""
    return Room(
        name=name,
        budget=machine.spendable_bytes() // sharing if memory is None else memory,
        backend=backend_here(),
        memory=machine.memory_bytes(),
        process=machine.own_bytes(),
        threads=cores(),
    )


def about(folder: ModelFolder, memory: int | None, sharing: int) -> dict[str, Any]:
    """Return what a rank tells rank 0 of itself."""
    return {"like": likeness(folder), "room": asdict(room("", memory, sharing))}
