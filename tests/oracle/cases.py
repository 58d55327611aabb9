"""The cases compared with transformers: sizes, seeds and token ids. Imports none of the packages under test."""

from dataclasses import dataclass

import numpy as np

from tests.support.checkpoints import SMALL, TWO_LAYERS_OF_20B, WINDOW_64, hf_config

YARN = hf_config(SMALL)["rope_scaling"]
ROPE_CASES = {
    "published": YARN,
    "truncated": YARN | {"truncate": True},
    "truncated by default": {name: value for name, value in YARN.items() if name != "truncate"},
    "attention_factor": YARN | {"attention_factor": 1.1, "mscale": 2.0},
    "mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.5},
    "unscaled": YARN | {"factor": 1.0},
    "null": YARN | dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow")),
    "shifted": YARN | {"factor": 8.0, "beta_fast": 16.0, "beta_slow": 2.0, "original_max_position_embeddings": 16384},
}
"""Rotary parameters whose frequencies and attention factor are compared with transformers'."""


@dataclass(frozen=True)
class Case:
    """One random model and the prompts it reads."""

    name: str
    sizes: dict
    lengths: tuple[int, ...]
    seed: int = 0
    shards: int = 1

    def tokens(self, length: int) -> list[int]:
        vocab = self.sizes.get("vocab_size", 201088)
        return np.random.default_rng([self.seed, length]).integers(0, vocab, length).tolist()


GOLDEN_CASES = (
    Case("small", SMALL, (8, 129, 300), seed=1),
    Case("window64", WINDOW_64, (8, 129, 300), seed=2),
)
LONG = Case("long", SMALL, (5000,), seed=3)
SHAPE_20B = Case("20b", TWO_LAYERS_OF_20B, (8, 300), seed=4, shards=8)
ROPE = Case("rope", SMALL | {"rope_scaling": ROPE_CASES["mscale"] | {"truncate": True}}, (8, 300), seed=5)
ALL_CASES = (*GOLDEN_CASES, ROPE, LONG, SHAPE_20B)
EXPORTED = ("small", "window64", "rope")
"""Cases whose model is also exported, for transformers to load."""


def sampled_rows(length: int, count: int = 12) -> np.ndarray:
    """Return the positions whose logits are compared, including the first, the last, and the windows' edges."""
    edges = [p for p in (0, 1, 63, 64, 65, 127, 128, 129, length - 1) if p < length]
    rest = np.linspace(0, length - 1, count).astype(int).tolist()
    return np.array(sorted(set(edges + rest)))
