"""Write random gpt-oss checkpoints in the published layouts.

Imports nothing of the packages under test, so that oracles can use it. A tensor's values depend only on the seed and
its name, so all layouts and any sharding have the same weights. A tensor is made when it is written, and at most one
is in memory.
"""

import json
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from tests.support.tokenizers import small_tokenizer_json, write_json

SMALL = {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_local_experts": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
}
WINDOW_64 = SMALL | {
    "hidden_size": 160,
    "intermediate_size": 128,
    "num_local_experts": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "sliding_window": 64,
}
TWO_LAYERS_OF_20B = {"num_hidden_layers": 2, "num_local_experts": 32}
DEFAULTS = {
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "sliding_window": 128,
    "rope_theta": 150000.0,
    "swiglu_limit": 7.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
}
PUBLISHED_IDS = 200019
"""Ids of the published tokenizer. The published models have more rows, which stand for no token."""
DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "U8": np.uint8, "U32": np.uint32}
BLOCK_ROWS = 8192
"""Rows of a BF16 tensor that are drawn at once, because the head in float32 would be 2.3 GB."""

NamedTensor = tuple[str, str, np.ndarray]
"""Name, safetensors dtype, and bits (uint16 for BF16)."""
Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all)."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is not in memory. ``blocks()`` makes its bits as consecutive blocks along the first axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    def bits(self) -> np.ndarray:
        """Make the whole tensor."""
        bits = np.empty(self.shape, DTYPES[self.dtype])
        row = 0
        for block in self.blocks():
            bits[row : row + len(block)] = block
            row += len(block)
        return bits


def hf_config(sizes: dict) -> dict:
    """Return ``config.json`` as in the Hugging Face repositories."""
    full = DEFAULTS | sizes
    layers = full["num_hidden_layers"]
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initial_context_length": 4096,
        "experts_per_token": full["num_experts_per_tok"],
        "eos_token_id": 200002,
        "pad_token_id": 199999,
        "tie_word_embeddings": False,
        "quantization_config": {"quant_method": "mxfp4"},
        "layer_types": ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)],
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
        **full,
    }


def original_config(sizes: dict) -> dict:
    """Return ``config.json`` as in the ``original/`` folders."""
    full = DEFAULTS | sizes
    same = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    same += ("head_dim", "vocab_size", "sliding_window", "rope_theta", "swiglu_limit")
    return {name: full[name] for name in same} | {
        "num_experts": full["num_local_experts"],
        "experts_per_token": full["num_experts_per_tok"],
        "initial_context_length": 4096,
        "rope_scaling_factor": 32.0,
        "rope_ntk_alpha": 1.0,
        "rope_ntk_beta": 32.0,
    }


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Truncate float32 to bfloat16 bits. Rounding does not matter, because the values are random."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def hf_plan(sizes: dict, seed: int = 0) -> Iterator[LazyTensor]:
    """Yield every tensor of a checkpoint under its Hugging Face name."""
    c = DEFAULTS | sizes
    hidden = c["hidden_size"]
    inter = c["intermediate_size"]
    experts = c["num_local_experts"]
    q = c["num_attention_heads"] * c["head_dim"]
    kv = c["num_key_value_heads"] * c["head_dim"]

    def normal(name: str, *shape: int, std: float, mean: float = 0.0) -> LazyTensor:
        def blocks() -> Iterator[np.ndarray]:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            for row in range(0, shape[0], BLOCK_ROWS):
                part = rng.standard_normal((min(BLOCK_ROWS, shape[0] - row), *shape[1:]), np.float32)
                yield to_bf16(part * np.float32(std) + np.float32(mean))

        return LazyTensor(name, "BF16", shape, blocks)

    def codes(name: str, low: int, high: int, *shape: int) -> LazyTensor:
        def blocks() -> Iterator[np.ndarray]:
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            yield rng.integers(low, high, shape, np.uint8, endpoint=True)

        return LazyTensor(name, "U8", shape, blocks)

    yield normal("model.embed_tokens.weight", c["vocab_size"], hidden, std=1.0)
    for n in range(c["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        attn = f"{layer}.self_attn"
        mlp = f"{layer}.mlp"
        yield normal(f"{layer}.input_layernorm.weight", hidden, std=0.1, mean=1.0)
        for proj, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
            yield normal(f"{attn}.{proj}.weight", rows, hidden, std=hidden**-0.5)
            yield normal(f"{attn}.{proj}.bias", rows, std=0.1)
        yield normal(f"{attn}.o_proj.weight", hidden, q, std=q**-0.5)
        yield normal(f"{attn}.o_proj.bias", hidden, std=0.1)
        yield normal(f"{attn}.sinks", c["num_attention_heads"], std=1.0)
        yield normal(f"{layer}.post_attention_layernorm.weight", hidden, std=0.1, mean=1.0)
        yield normal(f"{mlp}.router.weight", experts, hidden, std=2 * hidden**-0.5)
        yield normal(f"{mlp}.router.bias", experts, std=0.1)
        for proj, rows, columns in (("gate_up_proj", 2 * inter, hidden), ("down_proj", hidden, inter)):
            name = f"{mlp}.experts.{proj}"
            # These scales give weights a deviation near columns ** -0.5 and use four exponents.
            middle = 127 + round(np.log2(columns**-0.5 / 2.9))
            yield codes(f"{name}_blocks", 0, 255, experts, rows, columns // 32, 16)
            yield codes(f"{name}_scales", middle - 2, middle + 1, experts, rows, columns // 32)
            yield normal(f"{name}_bias", experts, rows, std=0.1)
    yield normal("model.norm.weight", hidden, std=0.1, mean=1.0)
    yield normal("lm_head.weight", c["vocab_size"], hidden, std=hidden**-0.5)


ORIGINAL_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "lm_head.weight": "unembedding.weight",
    "model.norm.weight": "norm.scale",
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.sinks": "attn.sinks",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}


def original_plan(sizes: dict, seed: int = 0) -> Iterator[LazyTensor]:
    """Yield the same tensors under ``original/`` names, with q, k and v stacked."""
    stacks: dict[str, list[LazyTensor]] = {"weight": [], "bias": []}
    for tensor in hf_plan(sizes, seed):
        if not tensor.name.startswith("model.layers."):
            yield replace(tensor, name=ORIGINAL_NAMES[tensor.name])
            continue
        _, _, n, rest = tensor.name.split(".", 3)
        if rest.startswith(("self_attn.q_", "self_attn.k_", "self_attn.v_")):
            kind = rest.rsplit(".", 1)[1]
            stacks[kind].append(tensor)
            if len(stacks[kind]) == 3:
                yield _stacked(f"block.{n}.attn.qkv.{kind}", stacks[kind])
                stacks[kind] = []
            continue
        yield replace(tensor, name=f"block.{n}.{ORIGINAL_NAMES[rest]}")


def _stacked(name: str, parts: Sequence[LazyTensor]) -> LazyTensor:
    parts = tuple(parts)
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return LazyTensor(name, parts[0].dtype, shape, lambda: chain.from_iterable(part.blocks() for part in parts))


def hf_tensors(sizes: dict, seed: int = 0) -> Iterator[NamedTensor]:
    """Make every tensor of ``hf_plan``."""
    return ((tensor.name, tensor.dtype, tensor.bits()) for tensor in hf_plan(sizes, seed))


def original_tensors(sizes: dict, seed: int = 0) -> Iterator[NamedTensor]:
    """Make every tensor of ``original_plan``."""
    return ((tensor.name, tensor.dtype, tensor.bits()) for tensor in original_plan(sizes, seed))


def write_safetensors(path: Path, tensors: Sequence[NamedTensor]) -> None:
    """Write tensors that are in memory."""
    write_shard(path, [LazyTensor(name, dtype, bits.shape, lambda b=bits: iter([b])) for name, dtype, bits in tensors])


def write_shard(path: Path, tensors: Sequence[LazyTensor], wrote: Callable[[int], None] = lambda nbytes: None) -> None:
    """Write one safetensors file, block by block. ``wrote`` is called with the bytes of each block."""
    header = {}
    offset = 0
    for tensor in tensors:
        offsets = [offset, offset + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for block in tensor.blocks():
                assert block.dtype == DTYPES[tensor.dtype], tensor.name
                np.ascontiguousarray(block).tofile(file)
                wrote(block.nbytes)
    assert path.stat().st_size == 8 + len(text) + offset, path


def write_checkpoint(
    folder: Path,
    sizes: dict,
    layout: str = "hf",
    shards: int = 1,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write a checkpoint in layout ``hf`` or ``original``. With ``shards`` over 1, an index names each tensor's file.

    As published, ``original`` has no ``tokenizer.json``. ``hf`` has one here if the vocabulary is too small for the
    published one, which ``random_checkpoint`` adds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make, config = {"hf": (hf_plan, hf_config), "original": (original_plan, original_config)}[layout]
    (folder / "config.json").write_text(json.dumps(config(sizes), indent=2))
    if layout == "hf":
        ids = {"<|startoftext|>": 199998, "<|endoftext|>": 199999, "<|return|>": 200002, "<|call|>": 200012}
        if (DEFAULTS | sizes)["vocab_size"] < PUBLISHED_IDS:
            tokenizer = small_tokenizer_json()
            write_json(folder / "tokenizer.json", tokenizer)
            ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        defaults = {"do_sample": True, "bos_token_id": ids["<|startoftext|>"], "pad_token_id": ids["<|endoftext|>"]}
        stop = [ids[marker] for marker in ("<|return|>", "<|endoftext|>", "<|call|>")]
        write_json(folder / "generation_config.json", defaults | {"eos_token_id": stop})
    tensors = list(make(sizes, seed))
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0

    def wrote(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    if shards == 1:
        write_shard(folder / "model.safetensors", tensors, wrote)
        return folder
    per_shard = -(-len(tensors) // shards)
    parts = [tensors[start : start + per_shard] for start in range(0, len(tensors), per_shard)]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        write_shard(folder / file, part, wrote)
        weight_map |= {tensor.name: file for tensor in part}
    index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=2))
    return folder
