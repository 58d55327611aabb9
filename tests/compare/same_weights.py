"""Check that the GGUF files are the same models as the checkpoints: llama.cpp's logits beside ours, both in float32.

The model is small, and its YaRN has factor 1. With another factor llama.cpp's logits differ from ours at every position
but the first, because it rounds the bounds of the interpolated dimensions to whole numbers and gpt-oss does not.
"""

import tempfile
from pathlib import Path

import numpy as np

from convert import convert
from gptoss_mlx.bench.peer import Peer
from gptoss_mlx.bench.programs import THREADS
from tests.support.checkpoints import SMALL, hf_config
from tests.support.measure import relative_l2
from tests.support.random_checkpoint import write_random_checkpoint

SIZES = SMALL | {"sliding_window": 16, "rope_scaling": hf_config(SMALL)["rope_scaling"] | {"factor": 1.0}}
BOUND = 1e-5
"""Relative L2 of logits. Sums in another order give 1e-6."""


def worst_difference(ours: Peer, llama: Peer) -> float:
    """Return the largest relative L2 between the logits of both, over three sequences of several lengths and a decode
    step after each. Raises PeerError."""
    ids = np.random.default_rng(3).integers(0, 256, (3, 65)).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        convert(write_random_checkpoint(folder / "checkpoint", SIZES), folder / "model", dense="bf16")
        gguf = write_random_checkpoint(folder / "model.gguf", SIZES, "gguf", exact=True)
        with ours, llama:
            ours.load(folder / "model", threads=THREADS, options={"dtype": "float32"})
            llama.load(gguf, threads=THREADS, rows=len(ids), positions=256, options={"exact": True})
            worst = 0.0
            for length in (1, 2, 15, 16, 17, 64):
                found = []
                for peer in (ours, llama):
                    peer.prefill([row[:length] for row in ids], folder / "read")
                    peer.decode([row[length] for row in ids], folder / "decoded")
                    found.append(np.stack([np.fromfile(folder / name, np.float32) for name in ("read", "decoded")]))
                worst = max(worst, *(relative_l2(theirs, own) for own, theirs in zip(*found, strict=True)))
            return worst
