"""A model folder's arrays as the decoder takes them. Knows tensor names and dtypes; knows no maths."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.experts import Look, PagedExperts, memory_of
from gptoss_mlx.model_folder import ModelFolder, Stretch
from gptoss_mlx.model_folder.expert_slots import holds_experts, paged_nbytes, slot_stretch
from metal_kernels import launch
from metal_kernels.operands import Dense, Experts

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16}
"""What a model can be loaded in."""

STORED = {mx.float32: "F32", mx.bfloat16: "BF16"}
"""What safetensors calls a model's dtype."""


@dataclass
class LayerWeights:
    """One decoder layer. Float arrays have the model's dtype, except that a norm stored in float32 stays so, and that
    matrices stay as stored where the native CPU library opens them."""

    attn_norm: mx.array  # [H]
    qkv: Dense  # [(N + 2M) * D, H]
    sinks: mx.array  # [N]
    o: Dense  # [H, N * D]
    mlp_norm: mx.array  # [H]
    router: Dense  # [E, H]
    slots: mx.array  # [E] int32: the slot of each expert in the two below
    gate_up: Experts  # [S, 2I, H]
    down: Experts  # [S, H, I]


@dataclass
class Weights:
    """All weights of a model. ``paged`` knows which experts are in the layers' slots, and is None where all are."""

    embedding: Dense  # [V, H], as stored: rows are cast after they are picked
    layers: list[LayerWeights]
    norm: mx.array  # [H]
    head: Dense  # [V, H]
    paged: PagedExperts | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype the model was loaded in. Keys and values have it too."""
        return self.layers[0].qkv.dtype


def load_weights(
    folder: ModelFolder,
    dtype: mx.Dtype,
    progress: Callable[[int, int], None] | None = None,
    *,
    slots: int | None = None,
    watch: Callable[[Look], None] | None = None,
) -> Weights:
    """Read every tensor, but with ``slots`` no experts: each layer then has room for so many. Call ``progress`` with
    (bytes there, of all), and later ``watch`` with what layers with slots choose. Raises ModelFolderError, and
    UsageError for a number of slots that does not fit the model.

    A layer has two buffers, one for its dense tensors and one for its experts. On Metal they are the mapped file
    itself, except for slots. The embedding is, too, but no GPU reads it (``launch.embed``), so its pages are the
    system's to drop. MLX decides by the buffers it has met when to commit work, and a buffer for each tensor
    would be fifty commits a token. A tensor that has to be cast gets a buffer of its own.
    """
    arrays: dict[str, mx.array] = {}
    paged = None if slots is None else PagedExperts.open(folder, slots, watch)
    tables: list[mx.array] = []
    total = loaded_nbytes(folder, dtype, slots)
    done = 0
    for stretch in folder.stretches():
        if paged is not None and holds_experts(stretch):
            room = slot_stretch(stretch, paged.slots, STORED[dtype])
            own = tensors(launch.room(room.nbytes), room, dtype)
            tables.append(paged.add_layer(stretch, own))
        else:
            buffer = _adopted(folder.stretch_bytes(stretch)) if mx.metal.is_available() else _read(folder, stretch)
            own = tensors(buffer, stretch, dtype)
            mx.eval(own)  # so that a cast's source is freed before the next stretch is read
        arrays |= own
        done += _taken(stretch, dtype, slots)
        if progress is not None:
            progress(done, total)
    return assembled(folder.config, arrays, tables, paged)


def loaded_nbytes(folder: ModelFolder, dtype: mx.Dtype, slots: int | None = None) -> int:
    """Return the bytes that ``load_weights`` reads or makes room for, by shapes alone."""
    return sum(_taken(stretch, dtype, slots) for stretch in folder.stretches())


def _taken(stretch: Stretch, dtype: mx.Dtype, slots: int | None) -> int:
    if slots is None or not holds_experts(stretch):
        return stretch.nbytes
    return paged_nbytes(stretch, slots, STORED[dtype])


def _adopted(data: np.ndarray) -> mx.array:
    """Return the mapped file as a Metal buffer. If Metal does not take it, warn and return a copy."""
    try:
        return mx.asarray(data, copy=False)
    except ValueError as error:
        warnings.warn(f"weights are copied, which takes twice their memory for a while: {error}", stacklevel=2)
        return mx.array(data)


def _read(folder: ModelFolder, stretch: Stretch) -> mx.array:
    """Return a stretch in memory, read to where it stays, because the head twice would be more than decoding needs."""
    one_row = "embedding.weight" in stretch.tensors  # is all that a token reads of it
    buffer = mx.zeros(stretch.nbytes, mx.uint8) if one_row else launch.room(stretch.nbytes)
    folder.read_into(stretch, memory_of(buffer).data)
    return buffer


def tensors(buffer: mx.array, stretch: Stretch, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Return the tensors of a stretch by name: slices of ``buffer`` [nbytes] uint8, cast to ``dtype`` if bfloat16.

    The rows of the embedding are cast after they are picked. Matrices are not cast where the native CPU library reads
    them, because it adds up in float32 whatever they are stored in.
    """
    found = {}
    opened = launch.where() != "cpu"
    for name, (offset, stored, shape) in stretch.tensors.items():
        as_stored = {"BF16": mx.bfloat16, "F32": mx.float32, "U32": mx.uint32, "U8": mx.uint8}[stored]
        array = buffer[offset : offset + as_stored.size * math.prod(shape)].view(as_stored).reshape(shape)
        matrix = len(shape) > 1 and not name.endswith(".bias")
        cast = stored == "BF16" and not name.startswith("embedding.") and (opened or not matrix)
        found[name] = array.astype(dtype) if cast else array
    return found


def assembled(
    config: ModelConfig,
    arrays: dict[str, mx.array],
    tables: Sequence[mx.array] = (),
    paged: PagedExperts | None = None,
) -> Weights:
    """Return a model's tensors, given by name, in their places. ``tables`` are the layers' slots if experts are
    paged. What has no embedding and no head gets matrices without rows."""
    if "norm.weight" not in arrays:
        nothing = mx.zeros((0, config.hidden_size))
        arrays = {**arrays, "embedding.weight": nothing, "norm.weight": nothing, "head.weight": nothing}

    def dense(name: str) -> Dense:
        return Dense(arrays[f"{name}.weight"], *(arrays.get(f"{name}.{part}") for part in ("bias", "scales", "biases")))

    def experts(name: str) -> Experts:
        return Experts(*(arrays[f"{name}.{part}"] for part in ("weight", "scales", "bias")))

    def layer(name: str, slots: mx.array) -> LayerWeights:
        return LayerWeights(
            attn_norm=arrays[f"{name}.attn_norm.weight"],
            qkv=dense(f"{name}.qkv"),
            sinks=arrays[f"{name}.sinks"],
            o=dense(f"{name}.o"),
            mlp_norm=arrays[f"{name}.mlp_norm.weight"],
            router=dense(f"{name}.router"),
            slots=slots,
            gate_up=experts(f"{name}.experts.gate_up"),
            down=experts(f"{name}.experts.down"),
        )

    tables = tables or [mx.array(np.arange(config.num_local_experts, dtype=np.int32))] * config.num_hidden_layers
    return Weights(
        embedding=dense("embedding"),
        layers=[layer(f"layers.{number}", slots) for number, slots in enumerate(tables)],
        norm=arrays["norm.weight"],
        head=dense("head"),
        paged=paged,
    )
