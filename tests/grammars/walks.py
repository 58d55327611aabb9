"""Texts drawn uniformly from what a constraint allows: the harshest model there is."""

import numpy as np

from gptoss_mlx.engine.constraint import follow
from gptoss_mlx.grammars import Grammar, Vocabulary


def walk(vocabulary: Vocabulary, grammar: Grammar, seed: int, most: int = 400) -> tuple[list[int], bool]:
    """Return up to about ``most`` ids, the end left out, and whether the end came."""
    rng = np.random.default_rng(seed)
    constraint = vocabulary.constraint(grammar)
    ids = follow(constraint, None)
    while len(ids) < most and ids[-1:] != [constraint.end]:
        allowed = np.flatnonzero(np.unpackbits(constraint.mask().view(np.uint8), bitorder="little"))
        ids.append(int(rng.choice(allowed)))
        if ids[-1] != constraint.end:
            ids += follow(constraint, ids[-1])
    ended = ids[-1:] == [constraint.end]
    return ids[:-1] if ended else ids, ended
