"""Run in the oracle environment: ``CHECKPOINT OUT LOGITS.npy tied|untied float32|bfloat16 TOKENS`` saves a checkpoint
by transformers' own ``save_pretrained``, experts in full and in many shards, and writes the model's float32 logits.

``tied`` makes the embedding the head. The weights are bfloat16 numbers, so that no dtype changes them.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from tests.oracle import reference

if __name__ == "__main__":
    checkpoint, out, logits, head, dtype, tokens = sys.argv[1:]
    model = reference.load(Path(checkpoint))
    if head == "tied":
        model.lm_head.weight = model.model.embed_tokens.weight
        model.config.tie_word_embeddings = True
    ids = [int(token) for token in tokens.split(",")]
    np.save(logits, reference.logits(model, ids, np.arange(len(ids))))
    model.to(getattr(torch, dtype)).save_pretrained(out, max_shard_size="500KB")
