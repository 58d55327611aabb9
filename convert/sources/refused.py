"""What people hold in place of a checkpoint, and cannot be used: each is refused by its name, with what to get instead.

Knows files by their names and first bytes, and tensors by their names and dtypes.
"""

from collections.abc import Mapping
from pathlib import Path

from convert.pieces import SourceTensor
from gptoss_mlx.errors import CheckpointError

METAL_MAGIC = b"GPT-OSS v1.0"
_ADAPTER = "adapter_config.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_PUBLISHED = "get the published safetensors files"
_MERGE = "merge it into its base (peft: merge_and_unload, unsloth: save_pretrained_merged, mlx-lm: fuse)"
_QUANTIZERS = {
    "bitsandbytes": (".absmax", ".quant_map", ".SCB"),
    "GPTQ or AWQ": (".qweight", ".qzeros"),
    "compressed-tensors": (".weight_packed",),
}
"""The ends of names of tensors that other quantizers add."""


def check_path(path: Path) -> None:
    """Raise CheckpointError when a file, or a folder without safetensors files, is something else that is known."""
    if path.is_file():
        if problem := _as_file(path):
            raise CheckpointError(f"{path}: {problem}")
        return
    if (path / _ADAPTER).exists():
        if any(path.glob("model*.safetensors")):
            raise CheckpointError(
                f"{path}: has a LoRA adapter ({_ADAPTER}) beside weights; if they are merged, remove that file, else "
                f"{_MERGE} and convert the result"
            )
        raise CheckpointError(
            f"{path}: is a LoRA adapter, which changes a model and is none; {_MERGE} and convert the result"
        )
    if any(path.glob("*.safetensors")) or any(path.glob("original/*.safetensors")):
        return
    for file in [*sorted(path.glob("*")), *sorted(path.glob("metal/*"))]:
        if file.is_file() and (problem := _as_file(file)):
            raise CheckpointError(f"{file}: {problem}")


def check_tensors(found: Mapping[str, SourceTensor]) -> None:
    """Raise CheckpointError when tensors are those of an adapter, or were quantized by a program whose result is lost
    for us."""
    for name, source in found.items():
        if ".lora_" in name or ".base_layer." in name:
            raise CheckpointError(f"{source.file}: has LoRA tensors, such as {name!r:.200}; {_MERGE} first")
        for quantizer, ends in _QUANTIZERS.items():
            if name.endswith(ends):
                raise CheckpointError(
                    f"{source.file}: is quantized by {quantizer}, which cannot be undone; {_PUBLISHED}, or save the "
                    "fine-tune in bfloat16"
                )
        if ".experts." in name and source.tensor.dtype in ("I8", "F8_E4M3", "F8_E5M2"):
            raise CheckpointError(
                f"{source.file}: the experts have 8 bits ({source.tensor.dtype}), not MXFP4 as published; "
                f"{_PUBLISHED}, or save the fine-tune in bfloat16"
            )


def _as_file(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(len(METAL_MAGIC))
    if start == METAL_MAGIC:
        return f"is in OpenAI's Metal format, whose vocabulary is cut; {_PUBLISHED}"
    if path.suffix in _PICKLES:
        return "is a pickle, which can run a program when it is read; save the model again as safetensors files"
    return None
