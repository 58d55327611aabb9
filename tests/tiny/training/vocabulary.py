"""Train a small byte-level BPE on the conversations and write it in the structure of the published tokenizer.json.

``gptoss_mlx.harmony.Tokenizer`` reads it. Ids are ranks: 256 bytes, then merges in the order they were learned, then
the harmony markers in the published order. No merge contains a digit, so each digit is a token.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import regex

from gptoss_mlx.harmony.tokenizer import O200K_PATTERN
from tests.support.tokenizers import gpt2_text, tokenizer_json

NAMED = {0: "startoftext", 1: "endoftext", 4: "return", 5: "constrain", 7: "channel", 8: "start", 9: "end"}
NAMED |= {10: "message", 14: "call", 20: "endofprompt"}
MARKER_TEXTS = tuple(f"<|{NAMED.get(i, 'reserved_{}')}|>" for i in range(21))


def train_tokens(texts: Iterable[str], size: int) -> list[bytes]:
    """Learn at most ``size`` ordinary tokens from ``texts``, and return them in the order of their ranks."""
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(part.encode() for part in regex.findall(O200K_PATTERN, text) if not regex.search(r"\p{N}", part))
    tokens = sorted((bytes([byte]) for byte in range(256)), key=gpt2_text)
    words = {word: [bytes([byte]) for byte in word] for word, count in counts.items() if count > 2}
    while len(tokens) < size:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        tokens.append(left + right)
        for word, parts in words.items():
            merged: list[bytes] = []
            for part in parts:
                if merged and merged[-1] == left and part == right:
                    merged[-1] = left + right
                else:
                    merged.append(part)
            words[word] = merged
    return tokens


def trained_tokenizer_json(tokens: list[bytes]) -> dict[str, Any]:
    """Return the published structure, with the markers after ``tokens``."""
    special = {text.format(id): id for id, text in enumerate(MARKER_TEXTS, len(tokens))}
    return tokenizer_json({token: rank for rank, token in enumerate(tokens)}, special, O200K_PATTERN)
