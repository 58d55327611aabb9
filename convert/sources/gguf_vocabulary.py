"""The vocabulary in a GGUF file's metadata, as a tokenizer. Knows llama.cpp's types of tokens."""

import re
from collections.abc import Callable
from typing import Any

from convert.sources.gguf_header import GgufArray, GgufHeader
from convert.sources.gguf_metadata import INSTEAD
from gptoss_mlx.errors import CheckpointError, one_line, quoted
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.tokenizer_files.formats import O200K_PATTERN, read_tokenizer_json

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""gguf.TokenType."""
_PADDING = re.compile(r"\[PAD\d+\]")
"""What llama.cpp's and ollama's converters call rows of the embedding that stand for no token."""
_OF_O200K = {"gpt-oss": ("gpt-4o",), "gptoss": ("gpt-4o", "default", "", None)}
"""Names of o200k's split pattern. ollama's files have none or another, but its program split by it."""


def tokenizer_maker(header: GgufHeader, architecture: str) -> Callable[[], Tokenizer] | None:
    """Return a function that makes the tokenizer, or None if the file has no vocabulary.

    The function raises CheckpointError when the vocabulary cannot be used.
    """
    if "tokenizer.ggml.tokens" not in header.metadata:
        return None

    def make() -> Tokenizer:
        try:
            return Tokenizer(*read_tokenizer_json(_tokenizer_json(header, architecture)))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{header.path}: its vocabulary is no gpt-oss tokenizer ({one_line(error)}); {INSTEAD}"
            ) from error

    return make


def _tokenizer_json(header: GgufHeader, architecture: str) -> dict[str, Any]:
    """Return the vocabulary in the structure of a tokenizer.json. Raises ValueError when it cannot be understood."""
    metadata = header.metadata
    if (model := metadata.get("tokenizer.ggml.model")) != "gpt2":
        raise ValueError(f"tokenizer.ggml.model is {quoted(model)}, not 'gpt2'")
    if (pattern := metadata.get("tokenizer.ggml.pre")) not in _OF_O200K[architecture]:
        raise ValueError(f"tokenizer.ggml.pre is {quoted(pattern)}, not 'gpt-4o'")
    tokens = _array(header, "tokens").texts()
    types = _array(header, "token_type").values()
    if len(types) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens have {len(types)} types")
    vocab: dict[str, int] = {}
    added: list[dict[str, Any]] = []
    for id, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == _UNUSED or (kind == _USER_DEFINED and _PADDING.fullmatch(text)):
            continue
        if kind in (_CONTROL, _USER_DEFINED):
            added.append({"id": id, "content": text, "special": kind == _CONTROL})
        elif kind != _NORMAL:
            raise ValueError(f"token {id} has type {kind}")
        elif text in vocab:
            raise ValueError(f"{text!r:.60} has two ids")
        else:
            vocab[text] = id
    split = {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    merges = _array(header, "merges").texts() if "tokenizer.ggml.merges" in metadata else []
    return {
        "added_tokens": added,
        "pre_tokenizer": {"pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _array(header: GgufHeader, name: str) -> GgufArray:
    found = header.metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, GgufArray):
        raise ValueError(f"tokenizer.ggml.{name} is missing or no list")
    return found
