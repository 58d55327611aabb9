"""The file formats of a vocabulary: Hugging Face's ``tokenizer.json``, tiktoken's ranks, and our compact form.

The compact form is magic and version, one line of JSON, a byte per id for the token's length (0: no ordinary token),
all token bytes, and the SHA-256 of everything before it. Damaged input raises ValueError, TypeError, KeyError,
IndexError, AttributeError, RecursionError or LZMAError, which the caller turns into one line (``checks.refused``).
"""

import hashlib
import json
import lzma
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from gptoss_mlx.tokenizer_files.added_tokens import AddedToken

O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How text is split before byte pairs are merged: the pattern of tiktoken's o200k_base and of tokenizer.json."""
O200K_NAMED = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,
}
"""The markers of the published tokenizer.json and their ids. Unused ones are called ``<|reserved_N|>``."""
MAGIC = b"gptoss-mac tokenizer "
VERSION = b"1\n"
CHECKSUM = 32
"""Bytes of a SHA-256."""
MAX_IDS = 1 << 24
MAX_FILE = 1 << 28
"""Bytes of a ``tokenizer.json``. The published one has 28 MB."""
O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of o200k_base's ranks. tiktoken checks them against the same value."""

VocabularyParts = tuple[list[bytes], dict[str, int], str, list[AddedToken]]
"""The arguments of ``Tokenizer``: tokens by id, marker ids, split pattern, added tokens."""


def read_file(path: Path) -> VocabularyParts:
    """Return the parts of a ``tokenizer.json``."""
    if path.stat().st_size > MAX_FILE:
        raise ValueError("the file is too large for a tokenizer")
    return read_tokenizer_json(json.loads(path.read_bytes()))


def read_ranks(path: Path) -> VocabularyParts:
    """Return the parts of the published vocabulary from its ranks in tiktoken's form, compressed."""
    ranks = lzma.decompress(path.read_bytes())
    if hashlib.sha256(ranks).hexdigest() != O200K_SHA256:
        raise ValueError("checksum does not match")
    tokens = [b64decode(line.split()[0]) for line in ranks.splitlines()]
    reserved = {f"<|reserved_{id}|>": id for id in range(200000, 200018) if id not in O200K_NAMED.values()}
    return tokens, O200K_NAMED | reserved, O200K_PATTERN, []


def read_tokenizer_json(raw: Any) -> VocabularyParts:
    """Return the parts of a parsed ``tokenizer.json``, which must hold byte-level BPE with its ids in merge order."""
    model = raw["model"]
    stages = raw["pre_tokenizer"]["pretokenizers"]
    if [model["type"], *(stage["type"] for stage in stages)] != ["BPE", "Split", "ByteLevel"]:
        raise ValueError("not byte-level BPE")
    split, byte_level = stages
    changes = (
        raw.get("normalizer"),
        byte_level.get("add_prefix_space"),
        byte_level.get("use_regex"),
        split.get("invert"),
    )
    if any(changes) or split["behavior"] != "Isolated":
        raise ValueError("it changes the text before splitting it")
    special = {entry["content"]: checked_id(entry["id"]) for entry in raw["added_tokens"] if _is_marker(entry)}
    added = [_added_token(entry) for entry in raw["added_tokens"] if not _is_marker(entry)]
    vocab = {text: checked_id(id) for text, id in model["vocab"].items() if text not in special}
    if two := [token.text for token in added if vocab.get(token.text, token.id) != token.id]:
        raise ValueError(f"the added token {two[0]!r:.60} has two ids")

    merged = [vocab["".join(pair.split(" ") if isinstance(pair, str) else pair)] for pair in model.get("merges", ())]
    if any(a > b for a, b in pairwise(merged)):
        raise ValueError("its ids are not in the order of its merges")
    byte_of = {char: byte for byte, char in enumerate(_printable_bytes())}
    tokens = [b""] * (max(vocab.values(), default=-1) + 1)
    for text, id in vocab.items():
        if tokens[id] or not text:
            raise ValueError(f"id {id} stands for two tokens, or for an empty one")
        tokens[id] = bytes([byte_of[char] for char in text])
    return tokens, special, split["pattern"]["Regex"], added


def tokenizer_json(
    tokens: Sequence[bytes], special: dict[str, int], pattern: str, added: Sequence[AddedToken]
) -> dict[str, Any]:
    """Return a vocabulary in the form of the published ``tokenizer.json``: the inverse of ``read_tokenizer_json``.

    Merges list every cut of a token into two tokens, in the order of the token's id, then of the parts' ids, as
    transformers' ``TikTokenConverter`` writes them. Raises ValueError where Hugging Face's tokenizers would number the
    added tokens otherwise: it counts them on from the last token, whatever ids the file has.
    """
    ids = {token: id for id, token in enumerate(tokens) if token}
    own = [AddedToken(text, id) for text, id in special.items()] + list(added)
    char_of = _printable_bytes()
    spelled = {token: "".join(char_of[byte] for byte in token) for token in ids}
    vocab = {spelled[token]: id for token, id in ids.items()}
    numbered = sorted(token.id for token in own if token.text not in vocab)
    if numbered != list(range(len(vocab), len(vocab) + len(numbered))):
        raise ValueError("its ids have gaps, which a tokenizer.json cannot have")
    merges = []
    for token in ids:
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(ids[left], ids[right], left, right) for left, right in cuts if left in ids and right in ids]
        merges += [[spelled[left], spelled[right]] for _, _, left, right in sorted(pairs)]
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True, "add_prefix_space": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_entry(token, token.text in special) for token in sorted(own, key=lambda token: token.id)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                byte_level | {"use_regex": False, "add_prefix_space": False},
            ],
        },
        "post_processor": byte_level | {"trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _entry(token: AddedToken, special: bool) -> dict[str, Any]:
    flags = {name: value for name, value in asdict(token).items() if name != "text"}
    return flags | {"content": token.text, "special": special}


def _is_marker(entry: dict[str, Any]) -> bool:
    """Return whether an added token is a marker: the file calls it special, or it is one of harmony's."""
    content = entry["content"]
    special = entry.get("special", True)
    if type(content) is not str or type(special) is not bool:
        raise ValueError("an added token has fields of the wrong type")
    return special or content in O200K_NAMED or re.fullmatch(r"<\|reserved_\d+\|>", content) is not None


def _added_token(entry: dict[str, Any]) -> AddedToken:
    flags = {name: entry.get(name, False) for name in ("normalized", "single_word", "lstrip", "rstrip")}
    if not all(type(flag) is bool for flag in flags.values()):
        raise ValueError("an added token has fields of the wrong type")
    return AddedToken(entry["content"], checked_id(entry["id"]), **flags)


def _printable_bytes() -> list[str]:
    """Return GPT-2's ``bytes_to_unicode``: printable Latin-1 as itself, the rest in order from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(code) for code in range(0x100, 0x200))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def checked_id(id: Any) -> int:
    """Return ``id`` if it is a whole number from 0 to MAX_IDS - 1. Raises ValueError otherwise."""
    if type(id) is not int or not 0 <= id < MAX_IDS:
        raise ValueError(f"{id!r:.40} is no token id")
    return id


def pack(tokens: Sequence[bytes], special: dict[str, int], pattern: str, added: Sequence[AddedToken]) -> bytes:
    """Return the compact form of a vocabulary."""
    head: dict[str, Any] = {"ids": len(tokens), "pattern": pattern, "special": special}
    if added:
        head["added"] = [asdict(token) for token in added]
    line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    packed = b"".join((MAGIC, VERSION, line, bytes(map(len, tokens)), *tokens))
    return packed + hashlib.sha256(packed).digest()


def unpack(packed: bytes) -> VocabularyParts:
    """Return the parts of a vocabulary from its compact form."""
    start = len(MAGIC + VERSION)
    if packed.startswith(MAGIC) and packed[:start] != MAGIC + VERSION:
        raise ValueError("it was written by another version of gptoss-mac; update that")
    if not packed.startswith(MAGIC):
        raise ValueError("it does not begin as a tokenizer does")
    packed, checksum = packed[:-CHECKSUM], packed[-CHECKSUM:]
    if hashlib.sha256(packed).digest() != checksum:
        raise ValueError("checksum does not match")
    lengths = packed.index(b"\n", start) + 1
    head = json.loads(packed[start:lengths])
    first = lengths + checked_id(head["ids"])
    ends = list(accumulate(packed[lengths:first], initial=first))
    if ends[-1] != len(packed):
        raise ValueError("its length is wrong")
    special = {text: checked_id(id) for text, id in head["special"].items()}
    added = [_added_token(entry | {"content": entry["text"]}) for entry in head.get("added", ())]
    return [packed[a:b] for a, b in pairwise(ends)], special, head["pattern"], added
