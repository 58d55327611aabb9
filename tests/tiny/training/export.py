"""Write the trained network as a checkpoint in the Hugging Face layout: ``python -m tests.tiny.training.export``."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.harmony import Tokenizer
from tests.tiny.training.network import CODES, mxfp4
from tests.tiny.training.train import TINY_CONFIG


def blocks_and_scales(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return [E,R,C] f32 as the published blocks [E,R,C/32,16] u8, low nibble first, and scales [E,R,C/32] u8."""
    values, exponent = mxfp4(weights)
    codes = torch.bucketize(values.abs(), torch.tensor(CODES)) | (values.signbit().long() << 3)
    blocks = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return blocks.to(torch.uint8), (exponent[..., 0] + 127).to(torch.uint8)


def tensors(net: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return every tensor under its published name."""
    out = {}
    for name, value in net.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            out[f"{name}_blocks"], out[f"{name}_scales"] = blocks_and_scales(value)
        else:
            out[name] = value.to(torch.bfloat16).contiguous()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"))
    parser.add_argument("--out", type=Path, default=checkpoint())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(args.work / "state.pt", weights_only=True)
    special = Tokenizer.from_file(args.work / "tokenizer.json").special
    ends = [special["<|return|>"], special["<|endoftext|>"], special["<|call|>"]]
    pad = special["<|endoftext|>"]
    bos = special["<|startoftext|>"]
    config = TINY_CONFIG | {"eos_token_id": ends[0], "pad_token_id": pad}
    generation = {"bos_token_id": bos, "do_sample": True, "eos_token_id": ends, "pad_token_id": pad}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    shutil.copyfile(args.work / "tokenizer.json", args.out / "tokenizer.json")
    shutil.copyfile(args.work / "log.jsonl", args.out / "training_log.jsonl")
    save_file(tensors(state["net"]), args.out / "model.safetensors", metadata={"format": "pt"})
    print(f"step {state['step']}, {sum(file.stat().st_size for file in args.out.iterdir())} bytes in {args.out}")


if __name__ == "__main__":
    main()
