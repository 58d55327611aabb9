"""Write ``tokenizer.json`` files as Hugging Face publishes them, from a vocabulary given as bytes.

Imports nothing of the packages under test, except to make the published vocabulary.
"""

import json
from pathlib import Path
from typing import Any

SMALL_MARKERS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)


def gpt2_text(token: bytes) -> str:
    """Return GPT-2's spelling of bytes: bytes that cannot be printed become U+0100 and up, in order."""
    return token.decode("latin-1").translate(_SHIFTED)


_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_SHIFTED = {byte: 256 + i for i, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)}


def tokenizer_json(tokens: dict[bytes, int], special: dict[str, int], pattern: str) -> dict[str, Any]:
    """Return the published structure of a byte-level BPE. ``tokens`` are in the order of their ranks.

    Merges list every split of a token into two tokens, by the token's rank: a pair's rank is that of the two together.
    Added tokens are in the order of their ids, because Hugging Face's tokenizers numbers them by their places.
    """
    spelled = {gpt2_text(token): id for token, id in tokens.items()}
    merges = [
        [token[:cut], token[cut:]]
        for token in spelled
        for cut in range(1, len(token))
        if token[:cut] in spelled and token[cut:] in spelled
    ]
    byte_level = {"type": "ByteLevel", "trim_offsets": False, "use_regex": True, "add_prefix_space": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": text} | flags for text, id in sorted(special.items(), key=lambda entry: entry[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
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
            "vocab": spelled,
            "merges": merges,
        },
    }


def published_tokenizer_json() -> dict[str, Any]:
    """Return the tokenizer.json of the published models' whole vocabulary, made from the ranks that the runtime has."""
    from gptoss_mlx.harmony import Tokenizer

    return Tokenizer.bundled().to_json()


def small_tokenizer_json(pattern: str = r"\s+|\S+") -> dict:
    """Return a tokenizer.json of 256 bytes, a few merges and the markers, whose ids differ from the published ones."""
    tokens = [bytes((byte,)) for byte in range(256)] + [b"th", b"the", b" t", b"\xf0\x9f"]
    special = {marker: len(tokens) + index for index, marker in enumerate(reversed(SMALL_MARKERS))}
    return tokenizer_json({token: id for id, token in enumerate(tokens)}, special, pattern)


def write_json(path: Path, raw: dict) -> Path:
    path.write_text(json.dumps(raw))
    return path
