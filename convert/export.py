"""Write a model folder as a checkpoint in the Hugging Face layout, which transformers loads: the way back.

Experts, router, norms and sinks keep their bits. q8 matrices become bfloat16 and keep the rounding to 8 bits.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.atomic_folder import atomic_folder
from convert.pieces import BLOCK_BYTES, counting
from convert.repack import dequantize_rows, round_to_bf16
from convert.sources import huggingface
from convert.sources.checkpoint import TOKENIZER_JSON
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.files import nbytes_in, storage_errors, sync
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder, layout
from gptoss_mlx.model_folder.reader import RECONVERT
from gptoss_mlx.model_folder.safetensors import header_bytes, nbytes_of

SHARD_BYTES = 5 * 10**9
"""The most that a file holds, as in transformers' ``save_pretrained`` of version 4. A larger tensor is alone in one."""

UNQUANTIZED = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
"""``modules_to_not_convert`` of the published config.json."""


@dataclass(frozen=True)
class Exported:
    """The result of an export. ``losses`` says what is not as in a published checkpoint, a line for each."""

    destination: Path
    losses: tuple[str, ...]
    tensors: int
    files: int
    bytes_written: int
    seconds: float


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the checkpoint: rows of the folder's tensor ``target`` from row ``start`` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    target: str
    start: int

    @property
    def nbytes(self) -> int:
        return nbytes_of(self.dtype, self.shape)


class _Source:
    """A model folder whose tensors are read in order and hashed meanwhile."""

    def __init__(self, model: ModelFolder) -> None:
        self.model = model
        self._hashes = {name: hashlib.sha256() for name in model.names()}

    def read(self, name: str, start: int, nbytes: int) -> np.ndarray:
        data = self.model.read_part(name, start, nbytes)
        self._hashes[name].update(data.data)
        return data

    def check(self) -> None:
        """Raise ModelFolderError unless every tensor is as it was converted. Each was read once from end to end."""
        for name, digest in self._hashes.items():
            if digest.hexdigest() != self.model.manifest["tensors"][name]["sha256"]:
                raise ModelFolderError(f"{self.model.file_of(name)}: tensor '{name}' is damaged; {RECONVERT}")


def export(model: ModelFolder, destination: str | Path, progress: Callable[[int, int], None] | None = None) -> Exported:
    """Write a new checkpoint folder. ``progress`` is called with (bytes of tensors written, bytes of all tensors).

    Raises ModelFolderError when the model is damaged, StorageError when the destination is unusable. After any
    exception, even KeyboardInterrupt, nothing is left at or beside the destination.
    """
    start = time.monotonic()
    tensors = _tensors(model)
    total = sum(tensor.nbytes for tensor in tensors)
    count = counting(progress, total)

    tokenizer, lost = _tokenizer_json(model)
    texts = {layout.CONFIG: _json_bytes(config_json(model)), layout.GENERATION: _json_bytes(model.generation)}
    if tokenizer is not None:
        texts[TOKENIZER_JSON] = json.dumps(tokenizer, ensure_ascii=False).encode("utf-8")
    shards = _shards(tensors)
    source = _Source(model)
    with atomic_folder(Path(destination), total + sum(map(len, texts.values())) + len(shards) * (1 << 20)) as folder:
        for file, inside in shards.items():
            header = header_bytes({tensor.name: (tensor.dtype, tensor.shape) for tensor in inside}, 8, made_for="pt")
            _write(folder / file, _shard_blocks(source, header, inside, count))
        source.check()
        if len(shards) > 1:
            weight_map = {tensor.name: file for file, inside in shards.items() for tensor in inside}
            texts[layout.INDEX] = _json_bytes({"metadata": {"total_size": total}, "weight_map": weight_map})
        for name, text in texts.items():
            _write(folder / name, [text])
        written = nbytes_in(folder)
    return Exported(
        destination=Path(destination),
        losses=_losses(model) + lost,
        tensors=len(tensors),
        files=len(shards),
        bytes_written=written,
        seconds=time.monotonic() - start,
    )


def config_json(model: ModelFolder) -> dict[str, Any]:
    """Return ``config.json`` with the fields of the published one that transformers reads."""
    stops = model.generation.get("eos_token_id")
    ids = {
        "eos_token_id": stops[0] if isinstance(stops, list) and stops else stops or None,
        "pad_token_id": model.generation.get("pad_token_id"),
    }
    return {
        **model.config.to_dict(),
        **{name: id for name, id in ids.items() if id is not None},
        "attention_bias": True,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": UNQUANTIZED},
    }


def _tensors(model: ModelFolder) -> list[_Tensor]:
    """Return every tensor of the checkpoint, in the folder's order, q, k and v apart."""
    found = []
    rows: dict[str, int] = {}
    for name, spec in huggingface.source_specs(model.config).items():
        start = rows.get(spec.target, 0)
        dtype = "F32" if model.tensor(spec.target).dtype == "F32" else spec.dtypes[0]
        found.append(_Tensor(name, dtype, spec.shape, spec.target, start))
        rows[spec.target] = start + spec.shape[0]
    return found


def _shards(tensors: Iterable[_Tensor]) -> dict[str, list[_Tensor]]:
    """Return the tensors of each file, which are called as transformers calls them."""
    parts: list[list[_Tensor]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(other.nbytes for other in parts[-1]) + tensor.nbytes > SHARD_BYTES:
            parts.append([])
        parts[-1].append(tensor)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{n:05d}-of-{len(parts):05d}.safetensors": part for n, part in enumerate(parts, 1)}


def _shard_blocks(
    source: _Source, header: bytes, tensors: Iterable[_Tensor], count: Callable[[int], None]
) -> Iterator[bytes | memoryview]:
    yield header
    for tensor in tensors:
        for block in _rows(source, tensor):
            yield block.data
            count(block.nbytes)


def _rows(source: _Source, tensor: _Tensor) -> Iterator[np.ndarray]:
    """Yield a tensor's published bytes, a block of rows at a time."""
    place = source.model.tensor(tensor.target)
    if place.dtype == "U32" and not layout.is_expert(tensor.target):
        yield from _dequantized(source, tensor)
        return
    # The words of experts are the published blocks byte for byte, so all that is left is a copy.
    first = tensor.start * (place.nbytes // place.shape[0])
    for start in range(0, tensor.nbytes, BLOCK_BYTES):
        yield source.read(tensor.target, first + start, min(BLOCK_BYTES, tensor.nbytes - start))


def _dequantized(source: _Source, tensor: _Tensor) -> Iterator[np.ndarray]:
    stem = tensor.target.removesuffix("weight")
    rows, columns = tensor.shape
    step = max(1, BLOCK_BYTES // (4 * columns))
    for row in range(tensor.start, tensor.start + rows, step):
        many = min(step, tensor.start + rows - row)
        weight = source.read(tensor.target, row * columns, many * columns).view("<u4")
        groups = 2 * (columns // layout.Q8_GROUP)
        scales, biases = (
            source.read(f"{stem}{kind}", row * groups, many * groups).view(np.uint16).reshape(many, -1)
            for kind in ("scales", "biases")
        )
        yield round_to_bf16(dequantize_rows(weight.reshape(many, -1), scales, biases))[0]


def _tokenizer_json(model: ModelFolder) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the tokenizer's JSON, or None, and what is lost of it."""
    if model.tokenizer_path is None:
        return None, (f"no {TOKENIZER_JSON}: the model folder has no tokenizer",)
    try:
        return Tokenizer.load(model.tokenizer_path).to_json(), ()
    except ValueError as error:
        return None, (f"no {TOKENIZER_JSON}: {error}",)


def _losses(model: ModelFolder) -> tuple[str, ...]:
    matrices = [
        name
        for name in model.names()
        if name.endswith(".weight") and not layout.is_expert(name) and model.tensor(name).dtype == "U32"
    ]
    if not matrices:
        return ()
    values = sum(4 * math.prod(model.tensor(name).shape) for name in matrices)
    return (f"{len(matrices)} dense matrices ({values:,} values) are bfloat16 again, but keep the rounding to 8 bits",)


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _write(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    with storage_errors(path), path.open("xb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        sync(file.fileno())
