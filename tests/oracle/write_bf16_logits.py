"""Run in the oracle environment by ``make goldens``: the bundled model's logits in float32, and in bfloat16 as
transformers runs a checkpoint by default. How far the second are from the first is what ours may be."""

import copy
import json
from pathlib import Path

import numpy as np
import torch
from transformers import GptOssForCausalLM

from tests.oracle import reference
from tests.oracle.cases import sampled_rows
from tests.oracle.tiny_replies import CHECKPOINT
from tests.oracle.tiny_replies import GOLDENS as REPLIES


def in_bfloat16(model: GptOssForCausalLM) -> GptOssForCausalLM:
    """Return a copy with the dtypes that ``from_pretrained`` gives it: bfloat16, but for what the class keeps in
    float32, and for the rotary frequencies, which are no parameters."""
    rounded = copy.deepcopy(model)
    kept = tuple(rounded._keep_in_fp32_modules or ())
    for name, parameter in rounded.named_parameters():
        if not any(part in kept for part in name.split(".")):
            parameter.data = parameter.data.to(torch.bfloat16)
    assert rounded.model.rotary_emb.inv_freq.dtype == torch.float32
    return rounded


@torch.no_grad()
def write(out: Path) -> None:
    """Write the tokens of the first golden prompt and reply, and both models' logits at sampled positions."""
    case = json.loads(REPLIES.read_text())["cases"][0]
    tokens = case["prompt"] + case["reply"]
    rows = sampled_rows(len(tokens))
    model = reference.load(CHECKPOINT)
    exact = reference.logits(model, tokens, rows)
    hidden = in_bfloat16(model).model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
    rounded = in_bfloat16(model).lm_head(hidden[torch.from_numpy(rows)].to(torch.bfloat16)).float().numpy()
    np.savez_compressed(out, tokens=np.array(tokens), rows=rows, float32=exact, bfloat16=rounded)
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    print(f"bundled model, {len(tokens)} tokens, {len(rows)} rows: bfloat16 is {error:.1e} from float32")
