"""Run in the oracle environment: ``CHECKPOINT OUT.npz CASE`` writes a case's sampled logits, from a checkpoint that
transformers loads by itself. It decodes MXFP4 to bfloat16, which is exact."""

import sys

import numpy as np
from transformers import AutoModelForCausalLM

from tests.oracle import reference
from tests.oracle.cases import ALL_CASES, sampled_rows

if __name__ == "__main__":
    checkpoint, out, name = sys.argv[1:]
    case = next(case for case in ALL_CASES if case.name == name)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").float().eval()
    np.savez(out, **{str(n): reference.logits(model, case.tokens(n), sampled_rows(n)) for n in case.lengths})
