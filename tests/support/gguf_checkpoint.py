"""Write the weights of a random checkpoint as GGUF, llama.cpp's format, as llama.cpp's converter would, or ollama's.

Knows how both name, split and order gpt-oss's tensors. ``gguf``, the format's own package, writes the file and
quantizes. Dense weights become ggml's Q8_0 by default, 32 weights to a float16 scale. That is not our q8, which has 64
weights to a scale and an offset, so the two are equally large but not equal. Experts are equal bit for bit.

``style`` is "llama.cpp"; "ollama" for the names in ollama's library; or "ollama-first" for what ollama's converter
wrote in August 2025 (its convert/convert_gptoss.go as it was added): q, k and v stacked, gate and up in turns, MXFP4
with a type number of its own and the published order of codes.

llama.cpp rounds activations to 8 bits before it multiplies them with Q8_0 or MXFP4. With ``exact`` every matrix is
float32, the experts as ``gguf`` decodes their blocks, so that llama.cpp computes in float32 throughout.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize

from tests.support.checkpoints import LazyTensor, Progress, from_bf16, hf_config, hf_plan, original_plan

NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.sinks": "attn_sinks.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.router": "ffn_gate_inp",
}
OLLAMA_NAMES = {"attn_output": "attn_out", "attn_sinks.weight": "attn_sinks", "post_attention_norm": "ffn_norm"}
OLLAMA_FIRST_NAMES = (
    ("unembedding", "output"),
    ("embedding", "token_embd"),
    ("block.", "blk."),
    ("attn.norm", "attn_norm"),
    ("attn.qkv", "attn_qkv"),
    ("attn.sinks", "attn_sinks"),
    ("attn.out", "attn_out"),
    ("mlp.norm", "ffn_norm"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.mlp1_", "ffn_gate_up_exps."),
    ("mlp.mlp2_", "ffn_down_exps."),
    ("norm.scale", "norm.weight"),
)
OLLAMA_FIRST_MXFP4 = 4


@dataclass(frozen=True)
class GgufTensor:
    """A tensor that is not in memory. ``data()`` makes its bytes as uint8 [..., bytes of a row]."""

    name: str
    type: Type
    shape: tuple[int, ...]
    data: Callable[[], np.ndarray]
    number: int | None = None
    """The type's number, where it is not ``type``'s."""

    @property
    def byte_shape(self) -> tuple[int, ...]:
        return quant_shape_to_byte_shape(self.shape, self.type)


def repack_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return ggml's ``block_mxfp4`` rows, uint8 [..., columns / 32 * 17], of published blocks [..., columns / 32, 16].

    A published byte has elements 2i (low nibble) and 2i + 1. ggml's has elements i (low nibble) and i + 16, and each
    block has its scale before it. Codes and scales mean the same in both.
    """
    half = blocks.shape[-1] // 2
    out = np.empty((*scales.shape, 1 + 2 * half), np.uint8)
    out[..., 0] = scales
    first = blocks[..., :half]
    second = blocks[..., half:]
    out[..., 1::2] = (first & 0x0F) | (second << 4)
    out[..., 2::2] = (first >> 4) | (second & 0xF0)
    return out.reshape(*scales.shape[:-1], -1)


def gguf_plan(
    sizes: dict, seed: int = 0, exact: bool = False, dense: Type = Type.Q8_0, style: str = "llama.cpp"
) -> Iterator[GgufTensor]:
    """Yield every tensor of a checkpoint under its name in ``style``. ``exact`` is only for llama.cpp's."""
    if style == "ollama-first":
        yield from _ollama_first_plan(sizes, seed)
        return
    for tensor in _llama_plan(sizes, seed, exact, Type.F32 if exact else dense):
        name = tensor.name
        for theirs, own in OLLAMA_NAMES.items() if style == "ollama" else ():
            name = name.replace(theirs, own)
        yield replace(tensor, name=name)


def _ollama_first_plan(sizes: dict, seed: int) -> Iterator[GgufTensor]:
    blocks: LazyTensor | None = None
    for tensor in original_plan(sizes, seed):
        name = tensor.name if tensor.name != "norm.scale" else "output_norm.weight"
        for theirs, own in OLLAMA_FIRST_NAMES:
            name = name.replace(theirs, own)
        if tensor.name.endswith(".blocks"):
            blocks = tensor
        elif tensor.name.endswith(".scales"):
            name = name.removesuffix(".scales")
            shape = (*tensor.shape[:-1], 32 * tensor.shape[-1])

            def data(blocks: LazyTensor = blocks, scales: LazyTensor = tensor) -> np.ndarray:
                return np.concatenate([scales.bits()[..., None], blocks.bits()], -1).reshape(*scales.shape[:-1], -1)

            yield GgufTensor(name, Type.MXFP4, shape, data, OLLAMA_FIRST_MXFP4)
        else:
            yield _dense(name, tensor, Type.BF16)


def _llama_plan(sizes: dict, seed: int, exact: bool, dense: Type) -> Iterator[GgufTensor]:
    codes: dict[str, LazyTensor] = {}
    for tensor in hf_plan(sizes, seed):
        if not tensor.name.startswith("model.layers."):
            stem = tensor.name.removesuffix(".weight")
            yield _dense(f"{NAMES[stem]}.weight", tensor, dense)
            continue
        _, _, n, rest = tensor.name.split(".", 3)
        if not rest.startswith("mlp.experts."):
            stem = next(name for name in LAYER_NAMES if rest.startswith(name))
            yield _dense(f"blk.{n}.{LAYER_NAMES[stem]}{rest.removeprefix(stem)}", tensor, dense)
            continue
        projection, kind = rest.removeprefix("mlp.experts.").rsplit("_", 1)
        codes[kind] = tensor
        if kind == "blocks":
            continue
        # Published rows are gate, up, gate, up, and so on.
        parts = {"down_proj": (("ffn_down_exps", 0, 1),)}
        parts["gate_up_proj"] = (("ffn_gate_exps", 0, 2), ("ffn_up_exps", 1, 2))
        for name, start, step in parts[projection]:
            rows = slice(start, None, step)
            if kind == "scales":
                packed = _experts(f"blk.{n}.{name}.weight", codes["blocks"], tensor, rows)
                yield _decoded(packed) if exact else packed
            else:
                experts, width = tensor.shape
                yield GgufTensor(
                    f"blk.{n}.{name}.bias",
                    Type.F32,
                    (experts, width // step),
                    lambda t=tensor, rows=rows: _encoded(t.bits()[:, rows], Type.F32),
                )


def _experts(name: str, blocks: LazyTensor, scales: LazyTensor, rows: slice) -> GgufTensor:
    experts, height, count = scales.shape
    shape = (experts, len(range(height)[rows]), 32 * count)

    def data() -> np.ndarray:
        out = np.empty(quant_shape_to_byte_shape(shape, Type.MXFP4), np.uint8)
        for row, block, scale in zip(out, blocks.bits(), scales.bits(), strict=True):
            row[...] = repack_mxfp4(block[rows], scale[rows])
        return out

    return GgufTensor(name, Type.MXFP4, shape, data)


def _decoded(packed: GgufTensor) -> GgufTensor:
    data = packed.data
    return replace(packed, type=Type.F32, data=lambda: dequantize(data(), packed.type).view(np.uint8))


def _dense(name: str, tensor: LazyTensor, dense: Type) -> GgufTensor:
    """Return a norm, bias, sink or router as float32, as llama.cpp wants them, and any other matrix as ``dense``."""
    type_ = Type.F32 if len(tensor.shape) == 1 or "ffn_gate_inp" in name else dense

    def data() -> np.ndarray:
        out = np.empty(quant_shape_to_byte_shape(tensor.shape, type_), np.uint8)
        done = 0
        for block in tensor.blocks():
            part = _encoded(block, type_)
            out[done : done + len(part)] = part
            done += len(part)
        return out

    return GgufTensor(name, type_, tensor.shape, data)


def _encoded(bits: np.ndarray, type_: Type) -> np.ndarray:
    """Return bfloat16 bits as bytes of another type, row by row. Of a vector each element is a row."""
    return quantize(from_bf16(np.ascontiguousarray(bits)), type_).view(np.uint8)


def write_gguf(
    path: Path,
    sizes: dict,
    tokenizer: dict[str, Any],
    *,
    seed: int = 0,
    exact: bool = False,
    dense: Type = Type.Q8_0,
    style: str = "llama.cpp",
    tensors_in_part: int = 0,
    edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write a GGUF file. ``tokenizer`` is a parsed tokenizer.json. At most one tensor is in memory at a time.

    With ``tensors_in_part`` it is written in parts, and ``path`` is their common name. ``edit`` may change metadata.
    """
    architecture = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT_OSS] if style == "llama.cpp" else "gptoss"
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_in_part)
    _add_config(writer, hf_config(sizes), style)
    _add_tokenizer(writer, tokenizer, hf_config(sizes)["vocab_size"], style)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    edit(writer)
    tensors = list(gguf_plan(sizes, seed, exact, dense, style))
    total = 0
    for tensor in tensors:
        nbytes = int(np.prod(tensor.byte_shape))
        writer.add_tensor_info(tensor.name, tensor.byte_shape, np.dtype(np.uint8), nbytes, raw_dtype=tensor.type)
        if tensor.number is not None:
            writer.tensors[-1][tensor.name].dtype = tensor.number
        total += nbytes
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for tensor in tensors:
            data = tensor.data()
            writer.write_tensor_data(data)
            done += data.nbytes
            progress(done, total)
    finally:
        writer.close()
    return path


def _add_config(writer: gguf.GGUFWriter, config: dict[str, Any], style: str) -> None:
    writer.add_name("random")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_sliding_window(config["sliding_window"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    rope = config["rope_scaling"]
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if style != "llama.cpp":
        return
    writer.add_expert_feed_forward_length(config["intermediate_size"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], rows: int, style: str) -> None:
    """Add the vocabulary. The embedding's rows that stand for no token are called so, as both converters do."""
    llama = style == "llama.cpp"
    tokens = [f"[PAD{id}]" for id in range(rows)]
    types = [gguf.TokenType.UNUSED if llama else gguf.TokenType.USER_DEFINED] * rows
    for text, id in tokenizer["model"]["vocab"].items():
        tokens[id] = text
        types[id] = gguf.TokenType.NORMAL
    markers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for text, id in markers.items():
        tokens[id] = text
        types[id] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o" if llama else "default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_bos_token_id(markers["<|startoftext|>"])
    if llama:
        writer.add_eos_token_id(markers["<|return|>"])
        writer.add_pad_token_id(markers["<|endoftext|>"])
        return
    writer.add_eos_token_id(markers["<|endoftext|>"])
    writer.add_array("tokenizer.ggml.eos_token_ids", [markers[m] for m in ("<|endoftext|>", "<|return|>", "<|call|>")])
