"""A prompt's chunk as MLX records it: the dispatches of the decoder's own Python on Metal, traced without a GPU."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from unittest.mock import patch

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.weights import assembled, tensors
from metal_kernels import launch
from tests.support import decode_graph
from tests.support.decode_graph import Node

VIEWS = decode_graph.VIEWS | {"Split"}
FUSED = ("rms_norm", "scaled_dot_product_attention")
"""Functions of ``mx.fast`` that are one dispatch each on Metal. The CPU backend would record them as many."""
PRODUCTS = ("GatherQMM", "QuantizedMatmul", "Matmul", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Primitive:
    """A primitive, and the bytes that it reads and writes. A gather reads as many as it writes."""

    node: Node
    nbytes: int

    @property
    def name(self) -> str:
        """The shader's name, or the primitive's."""
        shader = self.node.shader
        return next((name for name in FUSED if shader and shader.startswith(name)), shader or self.node.name)


def _primitives(recorded: Sequence[dict]) -> Iterator[Primitive]:
    """Yield every primitive. A view moves nothing, and what is broadcast counts as often as it is there."""
    there: dict[str, int] = {}  # the bytes of what is broadcast
    for entry in recorded:
        sides = {
            side: [there.get(name, prod(shape) * dtype.size) for name, shape, dtype in entry[side]]
            for side in ("inputs", "outputs")
        }
        if entry["name"] in VIEWS:
            ((name, shape, dtype),) = entry["outputs"][:1]
            if sides["inputs"][0] < prod(shape) * dtype.size:
                there[name] = sides["inputs"][0]
            yield Primitive(decode_graph.node(entry), 0)
            continue
        written = sum(sides["outputs"])
        read = written if entry["name"] == "Gather" else sum(sides["inputs"])
        yield Primitive(decode_graph.node(entry), read + written)


def record(config: ModelConfig, dense: str, tokens: int, dtype: mx.Dtype = mx.bfloat16) -> list[Primitive]:
    """Record the first chunk of a prompt, from token ids to the residual stream and the cache."""
    parts = decode_graph.stretches(config, dense)
    buffers = [mx.zeros((part.nbytes,), mx.uint8) for part in parts]

    def read(ids: mx.array, *arrays: mx.array) -> list[mx.array]:
        found: dict[str, mx.array] = {}
        for part, buffer in zip(parts, arrays, strict=True):
            found |= tensors(buffer, part, dtype)
        cache = KVCache.empty(config)
        return [Decoder(config, assembled(config, found, [], None))(ids, cache), *cache.arrays()]

    recorded: list[dict] = []
    with (
        patch.object(launch, "where", lambda: "metal"),
        patch.object(launch, "on_cpu", lambda: False),
        patch.object(launch.Kernel, "__call__", launch.Kernel.launch),
        patch.object(mx, "dequantize", decode_graph.dequantize),
        patch.object(mx, "contiguous", _one("contiguous")),
        patch.multiple(mx.fast, **{name: _one(name) for name in FUSED}),
        patch.multiple(mx, **dict.fromkeys(("async_eval", "eval", "synchronize"), lambda *_: None)),
    ):
        mx.export_function(recorded.append, read, mx.zeros((1, tokens), mx.uint32), *buffers)
    return list(_primitives([entry for entry in recorded if entry["type"] == "primitive"]))


def dispatches(primitives: Sequence[Primitive]) -> Counter[str]:
    """Count the dispatches of each primitive: none of a view, of a concatenation one for each input, else one. A sort
    of many values is more than one."""
    counts: Counter[str] = Counter()
    for one in primitives:
        if one.name not in VIEWS:
            counts[one.name] += len(one.node.inputs) if one.name == "Concatenate" else 1
    return counts


def moved(primitives: Sequence[Primitive]) -> Counter[str]:
    """Add up the bytes that each primitive reads and writes which is no product."""
    counts: Counter[str] = Counter()
    for one in primitives:
        if one.name not in PRODUCTS:
            counts[one.name] += one.nbytes
    return counts


def _one(name: str) -> Callable[..., mx.array]:
    """Return a function that is recorded as one dispatch, whose result is like its first argument."""

    def stand_in(
        *given: mx.array, sinks: mx.array | None = None, mask: mx.array | None = None, **_: object
    ) -> mx.array:
        arrays = [array for array in (*given, sinks, mask) if isinstance(array, mx.array)]
        names = [f"input{number}" for number in range(len(arrays))]
        kernel = mx.fast.metal_kernel(name=name, input_names=names, output_names=["out"], source="out[0] = 0;")
        shape, dtype = arrays[0].shape, arrays[0].dtype
        grid = (1, 1, 1)
        call = {"output_shapes": [shape], "output_dtypes": [dtype], "grid": grid, "threadgroup": grid}
        return kernel(inputs=arrays, **call)[0]  # type: ignore[operator]

    return stand_in
