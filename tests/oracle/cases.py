"""The cases compared with transformers: sizes, seeds and token ids. Imports none of the packages under test."""

from dataclasses import dataclass

import numpy as np

from tests.support.checkpoints import SMALL, TWO_LAYERS_OF_20B, WINDOW_64


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
ALL_CASES = (*GOLDEN_CASES, LONG, SHAPE_20B)


def sampled_rows(length: int, count: int = 12) -> np.ndarray:
    """Return the positions whose logits are compared, including the first, the last, and the windows' edges."""
    edges = [p for p in (0, 1, 63, 64, 65, 127, 128, 129, length - 1) if p < length]
    rest = np.linspace(0, length - 1, count).astype(int).tolist()
    return np.array(sorted(set(edges + rest)))
