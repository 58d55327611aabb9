"""The tensors of a model folder's shards: names, shapes, dtypes and order. Knows no file contents.

There is a shard for the embedding, one for each layer, and one for the final norm and the head. In a shard the dense
tensors come first, then the expert tensors. Each tensor starts on a 16 KiB boundary (a page of Apple silicon), and a
filler after it reaches to the next boundary. Each of the two groups therefore covers whole pages, which can become one
buffer without a copy.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model_folder.safetensors import nbytes_of

FORMAT = "gptoss-mac model folder"
FORMAT_VERSION = 1
ALIGNMENT = 16384
DENSE_CHOICES = ("q8", "bf16")
Q8_GROUP = 64
Q8_BITS = 8
MAX_SCALE = 240
"""Largest MXFP4 exponent byte allowed, because sums of 6 * 2 ** (240 - 127) still fit bfloat16. 255 is NaN."""

MANIFEST = "manifest.json"
CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.bin"
INDEX = "model.safetensors.index.json"
FILLER = "filler."

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's shape and allowed dtypes. A norm has two, BF16 and F32, because it keeps the checkpoint's dtype."""

    dtypes: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class ShardLayout:
    """The tensors of one file: the dense tensors, then the expert tensors, both in file order."""

    file: str
    dense_tensors: dict[str, TensorSpec]
    expert_tensors: dict[str, TensorSpec]

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        return self.dense_tensors | self.expert_tensors


def layer_file(layer: int) -> str:
    return f"model-layer-{layer:03d}.safetensors"


def is_expert(name: str) -> bool:
    """Return whether a tensor has a part for each expert."""
    return ".experts." in name


def align(offset: int) -> int:
    """Return the first boundary of a page from ``offset`` on, in bytes."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def is_quantized(columns: int, dense: str) -> bool:
    """Return whether a dense matrix is stored as q8. It stays bf16 if groups do not divide its columns."""
    return dense == "q8" and columns % Q8_GROUP == 0


def quantization(dense: str) -> dict[str, object]:
    """Return the manifest's entry that says how the weights are stored."""
    experts = {"mode": "mxfp4", "bits": 4, "group_size": 32}
    if dense == "bf16":
        return {"dense": "bf16", "experts": experts}
    return {"dense": "q8", "mode": "affine", "bits": Q8_BITS, "group_size": Q8_GROUP, "experts": experts}


def shards(config: ModelConfig, dense: str) -> list[ShardLayout]:
    """Return every shard of a model folder in order: embedding, layers, head. ``dense`` is "q8" or "bf16"."""
    hidden = config.hidden_size
    layers = [
        ShardLayout(layer_file(n), _layer_dense(config, n, dense), _layer_experts(config, n))
        for n in range(config.num_hidden_layers)
    ]
    embedding = ShardLayout("model-embedding.safetensors", _matrix("embedding", config.vocab_size, hidden, dense), {})
    head = {"norm.weight": _norm(hidden)} | _matrix("head", config.vocab_size, hidden, dense)
    return [embedding, *layers, ShardLayout("model-head.safetensors", head, {})]


def _bf16(*shape: int) -> TensorSpec:
    return TensorSpec(("BF16",), shape)


def _norm(hidden: int) -> TensorSpec:
    return TensorSpec(("BF16", "F32"), (hidden,))


def _matrix(name: str, rows: int, columns: int, dense: str) -> dict[str, TensorSpec]:
    if not is_quantized(columns, dense):
        return {f"{name}.weight": _bf16(rows, columns)}
    return {
        f"{name}.weight": TensorSpec(("U32",), (rows, columns * Q8_BITS // 32)),
        f"{name}.scales": _bf16(rows, columns // Q8_GROUP),
        f"{name}.biases": _bf16(rows, columns // Q8_GROUP),
    }


def _layer_dense(config: ModelConfig, n: int, dense: str) -> dict[str, TensorSpec]:
    hidden = config.hidden_size
    heads = config.num_attention_heads
    q = heads * config.head_dim
    qkv = (heads + 2 * config.num_key_value_heads) * config.head_dim
    layer = f"layers.{n}"
    return {
        f"{layer}.attn_norm.weight": _norm(hidden),
        **_matrix(f"{layer}.qkv", qkv, hidden, dense),
        f"{layer}.qkv.bias": _bf16(qkv),
        f"{layer}.sinks": _bf16(heads),
        **_matrix(f"{layer}.o", hidden, q, dense),
        f"{layer}.o.bias": _bf16(hidden),
        f"{layer}.mlp_norm.weight": _norm(hidden),
        f"{layer}.router.weight": _bf16(config.num_local_experts, hidden),
        f"{layer}.router.bias": _bf16(config.num_local_experts),
    }


def _layer_experts(config: ModelConfig, n: int) -> dict[str, TensorSpec]:
    experts = config.num_local_experts
    hidden = config.hidden_size
    inter = config.intermediate_size
    found: dict[str, TensorSpec] = {}
    for name, rows, columns in (("gate_up", 2 * inter, hidden), ("down", hidden, inter)):
        stem = f"layers.{n}.experts.{name}"
        found[f"{stem}.weight"] = TensorSpec(("U32",), (experts, rows, columns // 8))
        found[f"{stem}.scales"] = TensorSpec(("U8",), (experts, rows, columns // 32))
        found[f"{stem}.bias"] = _bf16(experts, rows)
    return found


def with_fillers(file: str, tensors: Mapping[str, tuple[str, Shape]]) -> dict[str, tuple[str, Shape]]:
    """Return ``tensors``, ``{name: (dtype, shape)}``, with a filler after each that does not end on a boundary.

    The filler names contain the shard's name, so they are unique in the folder.
    """
    padded: dict[str, tuple[str, Shape]] = {}
    for number, (name, (dtype, shape)) in enumerate(tensors.items()):
        padded[name] = (dtype, shape)
        nbytes = nbytes_of(dtype, shape)
        if gap := align(nbytes) - nbytes:
            padded[f"{FILLER}{file.removesuffix('.safetensors')}.{number}"] = ("U8", (gap,))
    return padded
