"""Where one expert's parts lie in a layer's stretch, and what so many slots of them take in memory.

A slot holds an expert's matrices and scales, as they are stored, and its biases in the model's dtype, which on the CPU
is not the stored one. Biases are small, and stay in memory for all experts. Knows no file contents.
"""

from gptoss_mlx.model_folder.layout import align, is_expert
from gptoss_mlx.model_folder.reader import Stretch
from gptoss_mlx.model_folder.safetensors import nbytes_of


def holds_experts(stretch: Stretch) -> bool:
    """Return whether a stretch holds a layer's experts."""
    return any(is_expert(name) for name in stretch.tensors)


def is_read(name: str) -> bool:
    """Return whether a tensor is read expert by expert."""
    return not name.endswith(".bias")


def part_nbytes(stored: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of one expert's part of a tensor."""
    return nbytes_of(stored, shape[1:])


def expert_nbytes(stretch: Stretch) -> int:
    """Return the bytes that are read for one expert: its matrices and scales, 13,219,200 for the published models."""
    return sum(part_nbytes(stored, shape) for name, (_, stored, shape) in stretch.tensors.items() if is_read(name))


def slot_stretch(stretch: Stretch, slots: int, biases: str) -> Stretch:
    """Return where the parts of ``slots`` experts lie in a layer's buffer, as a stretch of such a file would have them.
    ``biases`` is the dtype that theirs have, in safetensors' words."""
    inside = {}
    at = 0
    for name, (_, stored, shape) in stretch.tensors.items():
        kept = stored if is_read(name) else biases
        inside[name] = (at, kept, (slots, *shape[1:]))
        at = align(at + nbytes_of(kept, inside[name][2]))
    return Stretch(stretch.file, 0, at, inside)


def paged_nbytes(stretch: Stretch, slots: int, biases: str) -> int:
    """Return the bytes of memory that a layer's experts take: its slots, and the biases of all experts."""
    of_all = (shape for name, (_, _, shape) in stretch.tensors.items() if not is_read(name))
    return slot_stretch(stretch, slots, biases).nbytes + sum(nbytes_of(biases, shape) for shape in of_all)
