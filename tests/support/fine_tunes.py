"""Write random checkpoints as fine-tuning programs and mlx-lm write them, with the same weights as ``checkpoints``.

Imports nothing of the packages under test. MXFP4 is decoded by table, from its definition.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from tests.support.checkpoints import NamedTensor, from_bf16, hf_tensors, to_bf16, write_checkpoint, write_safetensors

FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], np.float32)


def decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode MXFP4 blocks [..., R, G, 16] and scales [..., R, G] to float32 [..., R, 32 G]."""
    values = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], -1).reshape(*scales.shape, 32)
    return np.ldexp(values, scales.astype(np.int32)[..., None] - 127).reshape(*scales.shape[:-1], -1)


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 as bits of a safetensors dtype, which must have all of them."""
    bits = {"BF16": to_bf16, "F16": lambda v: v.astype(np.float16), "F32": lambda v: v}[dtype](values)
    back = from_bf16(bits) if dtype == "BF16" else bits.astype(np.float32)
    assert np.array_equal(back, values)
    return bits


def full(sizes: dict, seed: int = 0, dtype: str = "BF16") -> Iterator[NamedTensor]:
    """Yield what transformers saves: experts in full, and transposed."""
    for name, matrices, tensor in _decoded(sizes, seed):
        if matrices is None:
            yield tensor
        else:
            yield name, dtype, as_dtype(np.ascontiguousarray(matrices.swapaxes(1, 2)), dtype)


def tuned(tensors: Iterable[NamedTensor], size: float = 0.01, layers: str = "") -> Iterator[NamedTensor]:
    """Yield tensors of ``full`` with noise on the experts of ``layers``, ``size`` of their root mean square."""
    rng = np.random.default_rng(7)
    for name, dtype, bits in tensors:
        if layers in name and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            values = from_bf16(bits)
            noise = size * np.sqrt((values**2).mean()) * rng.standard_normal(values.shape, np.float32)
            bits = to_bf16(values + noise)
        yield name, dtype, bits


def split(sizes: dict, seed: int = 0) -> Iterator[NamedTensor]:
    """Yield what peft saves of unsloth's split model: a linear layer for each expert, and the router in another."""
    for name, matrices, (given, dtype, bits) in _decoded(sizes, seed):
        if matrices is not None:
            for n, matrix in enumerate(matrices):
                yield f"{name}s.{n}.weight", "BF16", as_dtype(matrix, "BF16")
        elif ".experts." in given:
            for n, bias in enumerate(bits):
                yield f"{given.removesuffix('_bias')}s.{n}.bias", dtype, bias
        else:
            yield given.replace(".mlp.router.", ".mlp.router.linear."), dtype, bits


def mlx_lm(
    sizes: dict, seed: int = 0, dense: str = "bf16", group: int = 64, experts: str = "mxfp4"
) -> Iterator[NamedTensor]:
    """Yield what mlx-lm saves: gate and up apart. ``dense`` is "bf16", or "q8" or "q4" as ``--quantize`` makes them.

    ``experts`` are "mxfp4", or "full" as ``--dequantize`` makes them.
    """
    for name, dtype, bits in hf_tensors(sizes, seed):
        linear, _, kind = name.rpartition("_")
        if name.endswith("_blocks") and experts == "mxfp4":
            words = bits.reshape(*bits.shape[:2], -1).view("<u4")
            yield from ((f"{one}.weight", "U32", rows) for one, rows in _apart(linear, words))
        elif name.endswith("_bias") or (name.endswith("_scales") and experts == "mxfp4"):
            yield from ((f"{one}.{kind}", dtype, rows) for one, rows in _apart(linear, bits))
        elif ".experts." not in name and (dense == "bf16" or bits.ndim == 1):
            yield name, dtype, bits
        elif ".experts." not in name:
            eight = dense == "q8" or ".router." in name
            matrix = mx.array(bits).view(mx.bfloat16)
            weight, scales, biases = mx.quantize(matrix, group_size=group, bits=8 if eight else 4)
            stem = name.removesuffix("weight")
            yield name, "U32", np.array(weight)
            yield f"{stem}scales", "BF16", np.array(scales.view(mx.uint16))
            yield f"{stem}biases", "BF16", np.array(biases.view(mx.uint16))
    if experts == "full":
        for linear, matrices, _ in _decoded(sizes, seed):
            if matrices is not None:
                values = as_dtype(matrices, "BF16")
                yield from ((f"{one}.weight", "BF16", rows) for one, rows in _apart(linear, values))


def write(
    folder: Path,
    sizes: dict,
    tensors: Iterable[NamedTensor],
    edit: Callable[[dict], object] = lambda raw: None,
    shards: int = 1,
) -> Path:
    """Write a checkpoint, with an index if it has several files.

    ``edit`` changes its config, from which the quantization is removed before.
    """
    write_checkpoint(folder, sizes)
    tensors = list(tensors)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        (folder / "model.safetensors").unlink()
        weight_map = {}
        for number in range(shards):
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            write_safetensors(folder / file, tensors[number::shards])
            weight_map |= {name: file for name, _, _ in tensors[number::shards]}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    raw = json.loads((folder / "config.json").read_text())
    del raw["quantization_config"]
    edit(raw)
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def _apart(linear: str, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the linear layers that mlx-lm makes of one, and the rows [E, R, ...] of each."""
    if not linear.endswith("gate_up_proj"):
        yield linear, rows
        return
    yield linear.replace("gate_up_proj", "gate_proj"), np.ascontiguousarray(rows[:, ::2])
    yield linear.replace("gate_up_proj", "up_proj"), np.ascontiguousarray(rows[:, 1::2])


def _decoded(sizes: dict, seed: int) -> Iterator[tuple[str, np.ndarray | None, NamedTensor]]:
    """Yield each tensor's name, None, and itself.

    In place of blocks and scales there is one name without their suffix, with the matrices [E, R, C] that they are.
    """
    blocks = None
    for name, dtype, bits in hf_tensors(sizes, seed):
        if name.endswith("_blocks"):
            blocks = bits
        elif name.endswith("_scales"):
            yield name.removesuffix("_scales"), decode(blocks, bits), (name, dtype, bits)
        else:
            yield name, None, (name, dtype, bits)
