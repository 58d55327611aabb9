"""A small byte-level BPE in the structure of the checkpoint's tokenizer.json, trained on the conversations.

Knows text and ids; knows nothing of what the text says. Ids are ranks: 256 bytes, then merges in the order they were
learned, then the harmony markers in the published order. No merge holds a digit, so digits always stand alone.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex

# The published split pattern, as it stands in gpt-oss' tokenizer.json.
SPLIT = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
MARKERS = (
    "<|startoftext|>", "<|endoftext|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|return|>", "<|constrain|>", "<|reserved_{}|>",
    "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|call|>",
    "<|reserved_{}|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|reserved_{}|>", "<|endofprompt|>",
)  # fmt: skip


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for every byte, in the order of the published ids."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def train(texts: Iterable[str], size: int) -> list[bytes]:
    """The ordinary tokens in the order of their ranks, ``size`` of them at most, learned from ``texts``."""
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(part.encode() for part in regex.findall(SPLIT, text) if not regex.search(r"\p{N}", part))
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


class Vocabulary:
    """Encodes and decodes with the tokens that ``train`` found. Written to be short, not quick: words are remembered."""

    def __init__(self, tokens: list[bytes]):
        self.tokens = tokens
        self.rank = {token: rank for rank, token in enumerate(tokens)}
        self.special = {text.format(len(tokens) + i): len(tokens) + i for i, text in enumerate(MARKERS)}
        self.size = len(tokens) + len(MARKERS)
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_file(cls, path: Path) -> "Vocabulary":
        vocab = json.loads(path.read_text())["model"]["vocab"]
        byte_of = {letter: byte for byte, letter in byte_letters().items()}
        ordered = sorted(vocab, key=lambda letters: vocab[letters])
        return cls([bytes(byte_of[letter] for letter in letters) for letters in ordered])

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; markers in it are not markers."""
        ids: list[int] = []
        for part in regex.findall(SPLIT, text):
            if part not in self._known:
                self._known[part] = self._merge(part.encode())
            ids += self._known[part]
        return ids

    def _merge(self, word: bytes) -> list[int]:
        parts = [bytes([byte]) for byte in word]
        while len(parts) > 1:
            rank, at = min((self.rank.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(pairwise(parts)))
            if rank == 1 << 30:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self.rank[part] for part in parts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, markers spelled out."""
        names = {id_: text for text, id_ in self.special.items()}
        return b"".join(names[i].encode() if i in names else self.tokens[i] for i in ids).decode(errors="replace")

    def tokenizer_json(self) -> dict[str, Any]:
        """The published structure. As there, merges list every way to split a token into two, by the token's rank."""
        letters = byte_letters()
        spelled = ["".join(letters[byte] for byte in token) for token in self.tokens]
        known = set(spelled)
        merges = [
            [token[:cut], token[cut:]]
            for token in spelled[256:]
            for cut in range(1, len(token))
            if token[:cut] in known and token[cut:] in known
        ]
        byte_level = {"type": "ByteLevel", "trim_offsets": False, "use_regex": True, "add_prefix_space": True}
        split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": id_, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
                | {"normalized": False, "special": True}
                for text, id_ in self.special.items()
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
