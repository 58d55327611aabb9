"""Text to ordinary token ids and back, for any byte-level BPE vocabulary that carries harmony's markers.

Knows three sources of a vocabulary: a checkpoint's ``tokenizer.json``, the ranks bundled with this package, and the
compact form a model folder keeps. Knows no messages. A marker (``<|start|>`` and its kin) is reached through
``special`` alone: no text encodes to one, and none decodes to text unless asked. What a file adds to its vocabulary
without calling it special is text, unless it is one of harmony's markers.
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
from pathlib import Path

from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError
from gptoss_mlx.harmony.added_tokens import AddedToken, AddedTokens
from gptoss_mlx.harmony.tokenizer_files import (
    MAGIC,
    MAX_IDS,
    O200K_NAMED,
    O200K_PATTERN,
    VERSION,
    pack,
    read_tokenizer_json,
    unpack,
)

MARKERS = ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")

O200K_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"  # as tiktoken checks it

_TOKENIZER_REMEDY = "get the model's tokenizer.json again and convert it anew"
_MAX_FILE = 1 << 28  # bytes; the published tokenizer.json has 28 MB
# tiktoken's regex engine gives up on a run of about a million blanks.
_BLANKS = 500_000
_BLANK_RUN = re.compile(rf"(?<!\s)\s{{{_BLANKS + 1},}}")


class Tokenizer:
    """A byte-level BPE vocabulary with harmony's markers.

    ``special`` maps each marker's text to its id, reserved ones included. ``vocab_size`` is one more than the highest
    id; a model's embedding may have more rows than that.
    """

    def __init__(
        self, tokens: Sequence[bytes], special: dict[str, int], pattern: str, added: Sequence[AddedToken] = ()
    ) -> None:
        """``tokens[id]`` holds an ordinary token's bytes, ``b""`` where the id is none. The id is also its merge rank.

        ``added`` are tokens of text that no merges lead to.

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
            if not text or not 0 <= id < MAX_IDS or (id < len(tokens) and tokens[id]):
                raise ValueError(f"the marker {text!r} cannot have the id {id}")

        own = {token.id: token.text.encode() for token in added}
        if len(own) != len(added) or len({token.text for token in added}) != len(added):
            raise ValueError("two added tokens are the same")
        for token in added:
            taken = token.id in special.values() or token.text in special
            if taken or not token.text or (token.id < len(tokens) and tokens[token.id] not in (b"", own[token.id])):
                raise ValueError(f"the added token {token.text!r:.60} cannot have the id {token.id}")

        self.special = dict(special)
        self.vocab_size = 1 + max(len(tokens) - 1, *special.values(), *own)
        self._tokens = tokens
        self._pattern = pattern
        self._names = {id: text for text, id in special.items()}
        self._bpe = Encoding("harmony", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._added = AddedTokens(tuple(added), tuple(special))
        self._added_bytes = own
        if pattern != O200K_PATTERN:
            self._try_pattern()

    @classmethod
    def from_file(cls, tokenizer_json: str | Path) -> "Tokenizer":
        """Read a checkpoint's ``tokenizer.json``. Raises CheckpointError when it is damaged or of another kind."""
        path = Path(tokenizer_json)
        try:
            if path.stat().st_size > _MAX_FILE:
                raise ValueError("the file is too large for a tokenizer")
            return cls(*read_tokenizer_json(json.loads(path.read_bytes())))
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
        if packed.startswith(MAGIC) and not packed.startswith(MAGIC + VERSION):
            raise ModelFolderError(f"{path}: written by another version of gptoss-mac; update it, or convert again")
        try:
            if hashlib.sha256(packed[:-32]).digest() != packed[-32:]:
                raise ValueError("checksum does not match")
            return cls(*unpack(packed[:-32]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelFolderError(f"{path}: damaged ({_reason(error)}); convert the model again") from error

    def save(self, path: str | Path) -> None:
        """Write the compact form: what ``digest`` is taken over, then that digest. Raises StorageError."""
        packed = pack(self._tokens, self.special, self._pattern, self._added.tokens)
        try:
            Path(path).write_bytes(packed + bytes.fromhex(self.digest))
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex that names the vocabulary: equal for equal tokens, markers and split pattern."""
        return hashlib.sha256(pack(self._tokens, self.special, self._pattern, self._added.tokens)).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens only, whatever the text. An unpaired surrogate, which UTF-8 cannot hold, becomes U+FFFD.

        A run of more than 500,000 blanks is cut into pieces of that length, and the pieces encoded one by one. Raises
        ModelFolderError when the vocabulary's split pattern cannot cope with the text; the published one always can.
        """
        pieces = self._added.split(text)
        return [id for piece in pieces for id in ((piece,) if isinstance(piece, int) else self._encode(piece))]

    def _encode(self, text: str) -> list[int]:
        cuts = [cut for run in _BLANK_RUN.finditer(text) for cut in range(run.start() + _BLANKS, run.end(), _BLANKS)]
        if not cuts:
            return self._merge(text)
        pieces = (text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        return [id for piece in pieces for id in self._merge(piece)]

    def _merge(self, text: str) -> list[int]:
        try:  # `encode_ordinary` would panic where `encode` raises, on a pattern that explodes
            ids = self._bpe.encode(text, allowed_special=set(), disallowed_special=())
        except BaseException as error:  # a panic of Rust's, from a pattern that matches nothing at all, is no Exception
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
                raise
            problem = f"the tokenizer's split pattern cannot be used ({_reason(error)})"
            raise ModelFolderError(f"{problem}; {_TOKENIZER_REMEDY}") from None
        if self._pattern != O200K_PATTERN:  # tiktoken passes over what a pattern does not match
            paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if self.decode(ids) != paired:
                raise ModelFolderError(
                    f"the tokenizer's split pattern leaves out a part of the text; {_TOKENIZER_REMEDY}"
                )
        return ids

    def _try_pattern(self) -> None:
        """Raise ValueError for a pattern that loses text, or may match nothing at all, over which tiktoken panics.

        A pattern that matches nothing only beside certain text, by looking around, is found when such text comes.
        """
        from tiktoken import Encoding

        ranks = {bytes((byte,)): byte for byte in range(256)}
        for before, after in (("q", "z"), ("q", ""), ("", "z")):
            pattern = f"{before}(?:{self._pattern}){after}"
            around = Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            if around.encode(before + after):
                raise ValueError("its split pattern may match nothing at all")
        try:
            self._merge("A sample, of 12 words:\n  \tx é 漢字 🙂")
        except ModelFolderError as error:
            raise ValueError(f"its split pattern does not split text: {error}") from error

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one ordinary token; none for a marker, or for an id that stands for nothing."""
        if id in self._added_bytes:
            return self._added_bytes[id]
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


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"nothing is known of {error.args[0]!r:.60}"
    return str(error).partition("\n")[0][:200]
