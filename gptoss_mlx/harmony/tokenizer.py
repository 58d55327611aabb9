"""Text to ordinary token ids and back, for any byte-level BPE vocabulary that carries harmony's markers.

Knows three sources of a vocabulary: a checkpoint's ``tokenizer.json``, the ranks bundled with this package, and the
compact form a model folder keeps. Knows no messages. A marker (``<|start|>`` and its kin) is reached through
``special`` alone: no text encodes to one, and none decodes to text unless asked.
"""

import codecs
import hashlib
import json
import lzma
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError

MARKERS = ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")

# tiktoken's o200k_base: how text is split before byte pairs are merged. The checkpoint's tokenizer.json says the same.
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
# The added tokens of the published tokenizer.json; those without a meaning are `<|reserved_N|>`.
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
O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"  # as tiktoken checks it

_MAGIC = b"gptoss-mac tokenizer "
_VERSION = b"1\n"
_MAX_IDS = 1 << 24
_MAX_FILE = 1 << 28  # bytes; the published tokenizer.json has 28 MB
# tiktoken's regex engine gives up, by a panic, on a run of about a million blanks.
_BLANKS = 500_000
_BLANK_RUN = re.compile(rf"(?<!\s)\s{{{_BLANKS + 1},}}")


class Tokenizer:
    """A byte-level BPE vocabulary with harmony's markers.

    ``special`` maps each marker's text to its id, reserved ones included. ``vocab_size`` is one more than the highest
    id; a model's embedding may have more rows than that.
    """

    def __init__(self, tokens: Sequence[bytes], special: dict[str, int], pattern: str) -> None:
        """``tokens[id]`` holds an ordinary token's bytes, ``b""`` where the id is none. The id is also its merge rank.

        Raises ValueError, saying what is wrong, when this is no byte-level vocabulary with harmony's markers.
        """
        from tiktoken import Encoding

        ranks = dict(zip(tokens, range(len(tokens)), strict=True))
        gaps = tokens.count(b"")
        ranks.pop(b"", None)
        if len(ranks) + gaps != len(tokens):
            raise ValueError("two ids stand for the same token")
        if any(bytes((byte,)) not in ranks for byte in range(256)):
            raise ValueError("not every single byte is a token")
        if max(map(len, tokens)) > 255:
            raise ValueError("a token is longer than 255 bytes")
        if missing := [marker for marker in MARKERS if marker not in special]:
            raise ValueError(f"the marker {missing[0]} is missing")
        if len(set(special.values())) != len(special):
            raise ValueError("two markers share an id")
        for text, id in special.items():
            if not text or not 0 <= id < _MAX_IDS or (id < len(tokens) and tokens[id]):
                raise ValueError(f"the marker {text!r} cannot have the id {id}")

        self.special = dict(special)
        self.vocab_size = max(len(tokens), max(special.values()) + 1)
        self._tokens = tokens
        self._pattern = pattern
        self._names = {id: text for text, id in special.items()}
        self._bpe = Encoding("harmony", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    @classmethod
    def from_file(cls, tokenizer_json: str | Path) -> "Tokenizer":
        """Read a checkpoint's ``tokenizer.json``. Raises CheckpointError when it is damaged or of another kind."""
        path = Path(tokenizer_json)
        try:
            if path.stat().st_size > _MAX_FILE:
                raise ValueError("the file is too large for a tokenizer")
            return cls(*_read_tokenizer_json(json.loads(path.read_bytes())))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); get the file again") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: no gpt-oss tokenizer ({_reason(error)}); get the file again") from error

    @classmethod
    def bundled(cls) -> "Tokenizer":
        """The vocabulary of the published gpt-oss models (o200k_harmony), from ranks that come with this package."""
        path = Path(__file__).with_name("o200k_base.tiktoken.xz")
        try:
            ranks = lzma.decompress(path.read_bytes())
            if hashlib.sha256(ranks).hexdigest() != O200K_SHA256:
                raise ValueError("checksum does not match")
            tokens = [b64decode(line.split()[0]) for line in ranks.splitlines()]
        except (OSError, lzma.LZMAError, Base64Error, ValueError) as error:
            raise ModelFolderError(f"{path}: damaged ({_reason(error)}); install gptoss-mac again") from error
        special = {f"<|reserved_{id}|>": id for id in range(200000, 200018) if id not in O200K_NAMED.values()}
        return cls(tokens, O200K_NAMED | special, O200K_PATTERN)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Open the compact form that ``save`` wrote. Raises ModelFolderError when it is missing, damaged or newer."""
        path = Path(path)
        try:
            packed = path.read_bytes()
        except OSError as error:
            raise ModelFolderError(f"{path}: cannot be read ({error.strerror}); convert the model again") from error
        if packed.startswith(_MAGIC) and not packed.startswith(_MAGIC + _VERSION):
            raise ModelFolderError(f"{path}: written by another version of gptoss-mac; update it, or convert again")
        try:
            if hashlib.sha256(packed[:-32]).digest() != packed[-32:]:
                raise ValueError("checksum does not match")
            return cls(*_unpack(packed[:-32]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelFolderError(f"{path}: damaged ({_reason(error)}); convert the model again") from error

    def save(self, path: str | Path) -> None:
        """Write the compact form: what ``digest`` is taken over, then that digest. Raises StorageError."""
        packed = _pack(self._tokens, self.special, self._pattern)
        try:
            Path(path).write_bytes(packed + bytes.fromhex(self.digest))
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex that names the vocabulary: equal for equal tokens, markers and split pattern."""
        return hashlib.sha256(_pack(self._tokens, self.special, self._pattern)).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens only, whatever the text. An unpaired surrogate, which UTF-8 cannot hold, becomes U+FFFD.

        A run of more than 500,000 blanks is cut into pieces of that length, and the pieces encoded one by one.
        """
        cuts = [cut for run in _BLANK_RUN.finditer(text) for cut in range(run.start() + _BLANKS, run.end(), _BLANKS)]
        if not cuts:
            return self._bpe.encode_ordinary(text)
        pieces = (text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        return [id for piece in pieces for id in self._bpe.encode_ordinary(piece)]

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one ordinary token; none for a marker, or for an id that stands for nothing."""
        return self._tokens[id] if 0 <= id < len(self._tokens) else b""

    def decode_bytes(self, ids: Iterable[int], *, markers: bool = False) -> bytes:
        """The bytes of ordinary tokens. With ``markers=True`` special ids are written out too, as ``<|end|>`` is.

        An id that stands for nothing has no bytes, and is ``<|reserved_N|>`` with ``markers=True``.
        """
        if not markers:
            return b"".join(map(self.token_bytes, ids))
        return b"".join(
            self.token_bytes(id) or self._names.get(id, f"<|reserved_{id}|>").encode("utf-8", "replace") for id in ids
        )

    def decode(self, ids: Iterable[int], *, markers: bool = False) -> str:
        """``decode_bytes`` as text, each broken UTF-8 sequence replaced by U+FFFD."""
        return self.decode_bytes(ids, markers=markers).decode("utf-8", "replace")


class TextDecoder:
    """Ids to text as they arrive: the pieces concatenate to ``Tokenizer.decode`` of all the ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """The text that is certain now; empty while a character is still incomplete."""
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    def finish(self) -> str:
        """What remains: U+FFFD for an incomplete character. The decoder can be used afresh afterwards."""
        return self._utf8.decode(b"", final=True)


def _read_tokenizer_json(raw: Any) -> tuple[list[bytes], dict[str, int], str]:
    """The parts of a Hugging Face ``tokenizer.json`` that holds byte-level BPE with its ids in merge order."""
    model, stages = raw["model"], raw["pre_tokenizer"]["pretokenizers"]
    if [model["type"], *(stage["type"] for stage in stages)] != ["BPE", "Split", "ByteLevel"]:
        raise ValueError("not byte-level BPE")
    split, byte_level = stages
    if raw.get("normalizer") or byte_level.get("add_prefix_space") or split["behavior"] != "Isolated":
        raise ValueError("it changes the text before splitting it")
    special = {added["content"]: _checked_id(added["id"]) for added in raw["added_tokens"]}
    vocab = {text: _checked_id(id) for text, id in model["vocab"].items() if text not in special}

    merged = [vocab["".join(pair.split(" ") if isinstance(pair, str) else pair)] for pair in model.get("merges", ())]
    if any(a > b for a, b in pairwise(merged)):
        raise ValueError("its ids are not in the order of its merges")
    byte_of = {char: byte for byte, char in enumerate(_printable_bytes())}
    tokens = [b""] * (max(vocab.values(), default=-1) + 1)
    for text, id in vocab.items():
        if tokens[id] or not text:
            raise ValueError(f"id {id} stands for two tokens, or for an empty one")
        tokens[id] = bytes([byte_of[char] for char in text])
    return tokens, special, split["pattern"]["Regex"]


def _printable_bytes() -> list[str]:
    """GPT-2's ``bytes_to_unicode``: printable Latin-1 as itself, the rest in order from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (chr(code) for code in range(0x100, 0x200))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def _checked_id(id: Any) -> int:
    if type(id) is not int or not 0 <= id < _MAX_IDS:
        raise ValueError(f"{id!r:.40} is no token id")
    return id


# The compact form: magic and version, one line of JSON, a byte per id for the token's length (0: no ordinary token),
# all token bytes, and the SHA-256 of everything before it.


def _pack(tokens: Sequence[bytes], special: dict[str, int], pattern: str) -> bytes:
    head = {"ids": len(tokens), "pattern": pattern, "special": special}
    line = json.dumps(head, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    return b"".join((_MAGIC, _VERSION, line, bytes(map(len, tokens)), *tokens))


def _unpack(packed: bytes) -> tuple[list[bytes], dict[str, int], str]:
    start = len(_MAGIC + _VERSION)
    if packed[:start] != _MAGIC + _VERSION:
        raise ValueError("it does not begin as a tokenizer does")
    lengths = packed.index(b"\n", start) + 1
    head = json.loads(packed[start:lengths])
    first = lengths + _checked_id(head["ids"])
    ends = list(accumulate(packed[lengths:first], initial=first))
    if ends[-1] != len(packed):
        raise ValueError("its length is wrong")
    special = {text: _checked_id(id) for text, id in head["special"].items()}
    return [packed[a:b] for a, b in pairwise(ends)], special, head["pattern"]


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"nothing is known of {error.args[0]!r:.60}"
    return str(error).partition("\n")[0][:200]
