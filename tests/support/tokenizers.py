"""Write ``tokenizer.json`` files as Hugging Face publishes them, from a vocabulary given as bytes."""

import json
from pathlib import Path

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


def tokenizer_json(tokens: dict[bytes, int], special: dict[str, int], pattern: str) -> dict:
    return {
        "version": "1.0",
        "added_tokens": [{"id": id, "content": text, "special": True} for text, id in special.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "model": {"type": "BPE", "vocab": {gpt2_text(token): id for token, id in tokens.items()}, "merges": []},
    }


def small_tokenizer_json(pattern: str = r"\s+|\S+") -> dict:
    """Return a tokenizer.json of 256 bytes, a few merges and the markers, whose ids differ from the published ones."""
    tokens = [bytes((byte,)) for byte in range(256)] + [b"th", b"the", b" t", b"\xf0\x9f"]
    special = {marker: len(tokens) + index for index, marker in enumerate(reversed(SMALL_MARKERS))}
    return tokenizer_json({token: id for id, token in enumerate(tokens)}, special, pattern)


def write_json(path: Path, raw: dict) -> Path:
    path.write_text(json.dumps(raw))
    return path
