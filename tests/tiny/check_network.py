"""Compare the training network with transformers' GptOssForCausalLM, in float32 on random weights, past the window.

Needs torch, so it runs in the oracle's environment: ``python -m tests.tiny.check_network`` (``make tiny-train`` does).
"""

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from tests.tiny.training import network
from tests.tiny.training.train import TINY_CONFIG

TOLERANCE = 2e-5
"""Relative L2 of a token's logits."""


def main() -> None:
    torch.manual_seed(0)
    network.COMPUTE = network.KEPT = torch.float32
    small = TINY_CONFIG | {"num_attention_heads": 16, "num_key_value_heads": 2}
    ours = network.Network(small).eval()
    plain = {k: v for k, v in small.items() if k != "quantization_config"}
    theirs = GptOssForCausalLM(GptOssConfig(**plain, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        weights = {}
        for name, value in ours.state_dict().items():
            if name.endswith(("gate_up_proj", "down_proj")):
                value = network.through_mxfp4(value).transpose(1, 2).contiguous()
            weights[name] = value
        theirs.load_state_dict(weights)
        lengths = torch.tensor([70, 41])
        prefix = torch.randint(0, small["vocab_size"], (2, 72))
        ids = torch.randint(0, small["vocab_size"], (2, 3, 160))
        logits, _ = ours(prefix, lengths, ids, torch.ones_like(ids, dtype=torch.bool))
        logits = logits.unflatten(0, ids.shape)
        errors = []
        for g in range(2):
            for c in range(3):
                whole = torch.cat([prefix[g, : lengths[g]], ids[g, c]])[None]
                want = theirs(whole).logits[0, lengths[g] :]
                errors.append((logits[g, c] - want).norm(dim=-1) / want.norm(dim=-1))
    # If a token's fourth and fifth expert tie within rounding, it may choose another, so a few tokens may differ.
    error = torch.cat(errors).sort().values
    typical = error[len(error) // 2].item()
    most = error[len(error) * 98 // 100].item()
    print(f"network against transformers, {len(error)} tokens: {typical:.1e} median, {most:.1e} at 98%, relative L2")
    assert most < TOLERANCE, most


if __name__ == "__main__":
    main()
