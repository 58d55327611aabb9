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

NAMED = {0: "startoftext", 1: "endoftext", 4: "return", 5: "constrain", 7: "channel", 8: "start", 9: "end"}
NAMED |= {10: "message", 14: "call", 20: "endofprompt"}
MARKER_TEXTS = tuple(f"<|{NAMED.get(i, 'reserved_{}')}|>" for i in range(21))


def byte_letters() -> dict[int, str]:
    """Return GPT-2's printable letter for every byte, in the order of the published ids."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def train_tokens(texts: Iterable[str], size: int) -> list[bytes]:
    """Learn at most ``size`` ordinary tokens from ``texts``, and return them in the order of their ranks."""
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(part.encode() for part in regex.findall(O200K_PATTERN, text) if not regex.search(r"\p{N}", part))
    tokens = [bytes([byte]) for byte in byte_letters()]
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


def tokenizer_json(tokens: list[bytes]) -> dict[str, Any]:
    """Return the published structure. Its merges list every split of a token into two tokens, by the token's rank."""
    letters = byte_letters()
    spelled = ["".join(letters[byte] for byte in token) for token in tokens]
    known = set(spelled)
    merges = [
        [token[:cut], token[cut:]]
        for token in spelled[256:]
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    byte_level = {"type": "ByteLevel", "trim_offsets": False, "use_regex": True, "add_prefix_space": True}
    split = {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id_, "content": text.format(id_), "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for id_, text in enumerate(MARKER_TEXTS, len(tokens))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                split,
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": byte_level,
        "decoder": byte_level | {"trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: rank for rank, token in enumerate(spelled)},
            "merges": merges,
        },
    }
