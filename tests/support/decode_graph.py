"""One decode step as MLX records it: its dispatches on Metal, and when MLX would commit.

Tracing for export runs the decoder's own Python with the shaders that Metal would run, on any machine and without
weights in memory. Each primitive in a recording is a known number of dispatches; an unknown one fails the count.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import mlx.core as mx

from gptoss_mlx.config import FULL, SLIDING, ModelConfig
from gptoss_mlx.model.cache import TAIL, KVCache
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.experts import PagedExperts
from gptoss_mlx.model.weights import STORED, assembled, tensors
from gptoss_mlx.model_folder import Stretch, layout
from gptoss_mlx.model_folder.expert_slots import holds_experts, slot_stretch
from gptoss_mlx.model_folder.part_reader import PartReader
from gptoss_mlx.model_folder.safetensors import nbytes_of
from metal_kernels import launch

VIEWS = {"View", "Slice", "Reshape", "Squeeze", "ExpandDims", "Broadcast", "Flatten", "Unflatten", "Transpose"}
"""Primitives that only view a contiguous input (mlx 0.32, mlx/backend/gpu/primitives.cpp). All inputs here are
contiguous."""

ONE = {"CustomKernel", "Gather", "AsType", "Add", "Multiply", "Subtract", "Cos", "Sin", "ArgReduce", "Dequantize"}
"""Primitives that are one dispatch each."""

SHADER = "custom_kernel_"
"""MLX puts this before a shader's name."""

LIMITS = {"base, pro": (40, 40), "max, ultra": (50, 50)}
"""Operations and 2^20 elements after which MLX 0.32 commits, by chip (mlx/backend/metal/device.cpp)."""


@dataclass(frozen=True)
class Node:
    """A primitive: its name (of a shader, its function's), and the names and shapes of its inputs and outputs."""

    name: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def shader(self) -> str | None:
        """The shader's name, without the types MLX appends, or None for another primitive."""
        return self.name.removeprefix(SHADER).partition("__")[0] if self.name.startswith(SHADER) else None


def stretches(config: ModelConfig, dense: str) -> list[Stretch]:
    """Return the stretches that a model folder of this shape would have."""
    found = []
    for shard in layout.shards(config, dense):
        for group in (shard.dense_tensors, shard.expert_tensors):
            inside = {}
            at = 0
            for name, spec in group.items():
                inside[name] = (at, spec.dtypes[0], spec.shape)
                at = layout.align(at + nbytes_of(spec.dtypes[0], spec.shape))
            if inside:
                found.append(Stretch(layout.INDEX, 0, at, inside))  # type: ignore[arg-type]
    return found


Ending = Callable[[Decoder, mx.array], Sequence[mx.array]]


def record(
    config: ModelConfig,
    dense: str,
    length: int,
    *,
    rows: int = 1,
    dtype: mx.Dtype = mx.bfloat16,
    ending: Ending = Decoder.greedy,
    slots: int | None = None,
) -> list[Node]:
    """Record one step of ``rows`` tokens after ``length`` positions, from token ids to what ``ending`` makes of the
    residual stream: to token ids, if it is greedy. With ``slots`` experts are paged, and what the host waits for is an
    output too. A step that waited in its midst could not be recorded."""
    parts = stretches(config, dense)
    if slots is not None:
        parts = [slot_stretch(part, slots, STORED[dtype]) if holds_experts(part) else part for part in parts]
    tables = [mx.zeros(config.num_local_experts, mx.int32) for _ in range(config.num_hidden_layers if slots else 0)]
    buffers = [mx.zeros((part.nbytes,), mx.uint8) for part in parts]
    cache = KVCache.empty(config)
    for layer in cache.layers:
        layer.length = length
        layer.tail_rows = min(length, TAIL // 2)
        layer.body_rows = length - layer.tail_rows
        if layer.window:
            layer.body_rows = min(layer.body_rows, layer.window - 1)
        heads = config.num_key_value_heads
        dim = config.head_dim
        layer.body = mx.zeros((2, 1, heads, layer.body_rows + 100, dim), dtype)
        layer.tail = mx.zeros((2, 1, heads, TAIL, dim), dtype)
    held = cache.arrays()

    def step(token: mx.array, *arrays: mx.array) -> list[mx.array]:
        found: dict[str, mx.array] = {}
        for part, buffer in zip(parts, arrays, strict=False):
            found |= tensors(buffer, part, dtype)
        for number, layer in enumerate(cache.layers):
            layer.body, layer.tail = arrays[len(parts) + 2 * number :][:2]
        own = arrays[len(parts) + 2 * len(cache.layers) :]
        paged = None if slots is None else PagedExperts(slots, config, PartReader([]))
        model = Decoder(config, assembled(config, found, own, paged))
        made = model.decode(token.reshape(-1), [cache])
        return [
            *ending(model, made.x),
            *made.pending[1:],
            *(layer.tail for layer in cache.layers if layer.tail is not None),
        ]

    recorded: list[dict] = []
    with (
        patch.object(launch, "where", lambda: "metal"),
        patch.object(launch.Kernel, "__call__", launch.Kernel.launch),
        patch.object(mx, "dequantize", dequantize),
        patch.object(mx.fast, "rms_norm", _refused),
        patch.object(mx.fast, "rope", _refused),
        patch.object(mx.fast, "scaled_dot_product_attention", _refused),
    ):
        mx.export_function(recorded.append, step, mx.zeros((1, rows), mx.uint32), *buffers, *held, *tables)
    return [node(entry) for entry in recorded if entry["type"] == "primitive"]


def dispatches(nodes: Sequence[Node]) -> Counter[str]:
    """Count the dispatches of each primitive, of shaders by name. Raise KeyError for an unknown primitive."""
    counts: Counter[str] = Counter()
    for node in nodes:
        if node.shader or node.name in ONE:
            counts[node.shader or node.name] += 1
        elif node.name == "Concatenate":  # one copy for each input
            counts[node.name] += len(node.inputs)
        elif node.name not in VIEWS:
            raise KeyError(node.name)
    return counts


def per_layer(config: ModelConfig, dense: str, length: int) -> Counter[str]:
    """Return the dispatches of a sliding and a full layer: those of four layers less those of two."""
    more, fewer = (dispatches(record(with_layers(config, alternating(n)), dense, length)) for n in (4, 2))
    return more - fewer


def commits(nodes: Sequence[Node], limits: tuple[int, int]) -> int:
    """Return how often MLX commits in one step.

    It commits after so many operations, or so many elements of buffers it has met since the last commit. A buffer
    counts once, by its first view.
    """
    base: dict[str, str] = {}
    met: set[str] = set()
    operations = elements = committed = 0
    for node in nodes:
        if node.name in VIEWS:
            base[node.outputs[0][0]] = base.get(node.inputs[0][0], node.inputs[0][0])
            continue
        operations += 1
        for name, shape in (*node.inputs, *node.outputs):
            buffer = base.get(name, name)
            elements += math.prod(shape) * (buffer not in met)
            met.add(buffer)
        if operations > limits[0] or elements >> 20 > limits[1]:
            committed = committed + 1
            operations = 0
            elements = 0
            met.clear()
    return committed + bool(operations)


def strided(nodes: Sequence[Node]) -> list[str]:
    """Return the shaders that get a view which MLX would have to copy at every call."""
    loose: set[str] = set()
    found = []
    for node in nodes:
        if node.name in VIEWS:
            (name, shape) = node.inputs[0]
            (made, cut) = node.outputs[0]
            whole = node.name not in ("Transpose", "Broadcast") and (node.name != "Slice" or shape[1:] == cut[1:])
            if name in loose or not whole:
                loose.add(made)
        elif node.shader:
            found += [node.shader for name, _ in node.inputs if name in loose]
    return found


def alternating(layers: int) -> tuple[str, ...]:
    """Return the layer types of a published model."""
    return (SLIDING, FULL) * (layers // 2)


def with_layers(config: ModelConfig, kinds: tuple[str, ...]) -> ModelConfig:
    """Return the config with other layers."""
    return ModelConfig(**vars(config) | {"num_hidden_layers": len(kinds), "layer_types": kinds})


def node(entry: dict) -> Node:
    name = entry["arguments"][0] if entry["name"] == "CustomKernel" else entry["name"]
    inputs, outputs = (tuple((n, shape) for n, shape, _ in entry[side]) for side in ("inputs", "outputs"))
    return Node(name, inputs, outputs)


def _refused(*_: object, **__: object) -> mx.array:
    raise AssertionError("plain MLX where a shader should be")


def dequantize(w: mx.array, scales: mx.array, biases: mx.array, **_: object) -> mx.array:
    """Stand in for dequantize as one dispatch, as on Metal. The CPU backend's would be recorded as many."""
    kernel = mx.fast.metal_kernel(
        name="dequantize", input_names=["w", "s", "b"], output_names=["out"], source="out[0] = w[0] * s[0] + b[0];"
    )
    shape = (*w.shape[:-1], w.shape[-1] * 4)
    return kernel(  # type: ignore[operator]
        inputs=[w, scales, biases],
        output_shapes=[shape],
        output_dtypes=[scales.dtype],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )[0]
