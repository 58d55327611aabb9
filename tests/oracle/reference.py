"""transformers' GptOssForCausalLM in float32 with eager attention: the numeric oracle.

Runs in the oracle environment. Imports none of our packages: MXFP4 is decoded here by table, from its definition.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

from tests.support.checkpoints import from_bf16

FP4 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], np.float32)


# With two threads torch 2.13's own result was 6.2e-5 away in one run of 36, in all positions of the second thread.
torch.set_num_threads(1)


def load(folder: Path) -> GptOssForCausalLM:
    """Load the reference model of a Hugging Face checkpoint folder, in float32."""
    raw = json.loads((folder / "config.json").read_text())
    for key in ("quantization_config", "pad_token_id", "eos_token_id"):  # the ids may lie outside a small vocabulary
        raw.pop(key, None)
    config = GptOssConfig(**raw, pad_token_id=None, eos_token_id=None, attn_implementation="eager")
    with torch.device("meta"):
        model = GptOssForCausalLM(config)
    shards = _Shards(folder)
    for name in shards.names():
        model.load_state_dict(dict([shards.float32(name)]), strict=False, assign=True)
    # Rotary frequencies are no parameters, so they are built again, on a real device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    left = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if left:
        sys.exit(f"{folder}: the reference model lacks {left[:3]}")
    return model.eval()


@torch.no_grad()
def logits(model: GptOssForCausalLM, tokens: list[int], rows: np.ndarray) -> np.ndarray:
    """Return [len(rows), V] float32 logits at the positions in ``rows``, from one pass."""
    hidden = model.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
    return model.lm_head(hidden[torch.from_numpy(rows)]).numpy()


@torch.no_grad()
def trace(model: GptOssForCausalLM, tokens: list[int], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return what one pass computes: raw router logits [layers, rows, E], the residual stream after each layer but the
    last [layers - 1, rows, H], the sinks' share of each softmax [layers, rows, N], and the surprise [L - 1] of each
    token but the first."""
    seen = model(
        torch.tensor([tokens]),
        use_cache=False,
        output_router_logits=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    at = torch.from_numpy(rows)
    # What attention gives to keys sums up to 1, but for the sink.
    sinks = [1 - weights[0].double().sum(-1).T[at] for weights in seen.attentions]
    likely = seen.logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])
    return {
        "router_logits": torch.stack([logits.reshape(len(tokens), -1)[at] for logits in seen.router_logits]).numpy(),
        "hidden": torch.stack([stream[0, at] for stream in seen.hidden_states[1:-1]]).numpy(),
        "sink_mass": torch.stack(sinks).float().numpy(),
        "surprise": -likely[:, 0].numpy(),
    }


def rotary(raw: dict) -> tuple[list[float], float]:
    """Return the float32 radians per position of each pair of dimensions, and what cos and sin are multiplied by."""
    embedding = GptOssRotaryEmbedding(GptOssConfig(**raw))
    return embedding.inv_freq.tolist(), embedding.attention_scaling


def default_config() -> dict:
    """Return a whole ``config.json``, as transformers saves it for a model with every default."""
    return json.loads(GptOssConfig().to_json_string(use_diff=False))


class _Shards:
    """A checkpoint's tensors, from any file. Experts are decoded and transposed as transformers stores them."""

    def __init__(self, folder: Path) -> None:
        self._where = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            data = np.memmap(path, np.uint8, "r", offset=8 + size)
            self._where |= {name: (data, entry) for name, entry in header.items() if name != "__metadata__"}

    def names(self) -> list[str]:
        return [name for name in self._where if not name.endswith("_scales")]

    def float32(self, name: str) -> tuple[str, torch.Tensor]:
        if name.endswith("_blocks"):
            base = name.removesuffix("_blocks")
            return base, torch.from_numpy(_decode(self._bits(name), self._bits(f"{base}_scales")))
        bits = self._bits(name)
        return name, torch.from_numpy(from_bf16(bits) if bits.dtype == np.uint16 else bits.copy())

    def _bits(self, name: str) -> np.ndarray:
        data, entry = self._where[name]
        start, stop = entry["data_offsets"]
        dtype = {"BF16": np.uint16, "F32": np.float32, "U8": np.uint8}[entry["dtype"]]
        return data[start:stop].view(dtype).reshape(entry["shape"])


def _decode(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Decode MXFP4 blocks [E, R, C / 32, 16] and scales [E, R, C / 32] to float32 [E, C, R]."""
    E, R, G, _ = blocks.shape
    out = np.empty((E, G * 32, R), np.float32)
    for e in range(E):
        values = np.empty((R, G, 32), np.float32)
        values[..., 0::2] = FP4[blocks[e] & 15]
        values[..., 1::2] = FP4[blocks[e] >> 4]
        values *= np.exp2(scales[e].astype(np.float32) - 127)[..., None]
        out[e] = values.reshape(R, G * 32).T
    return out
