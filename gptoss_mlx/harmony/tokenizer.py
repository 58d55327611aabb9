"""Encode text as ordinary token ids and decode ids, for any byte-level BPE vocabulary with harmony's markers.

Loads a vocabulary from a checkpoint's ``tokenizer.json``, from the ranks bundled with this package, or from the compact
form a model folder keeps. Knows no messages. A marker such as ``<|start|>`` is reached through ``special`` alone: no
text encodes to a marker, and a marker decodes to text only on request. An added token that a file does not call special
is text, unless it is one of harmony's markers.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError
from gptoss_mlx.tokenizer_files.added_tokens import AddedToken, AddedTokens
from gptoss_mlx.tokenizer_files.checks import check_ids, check_pattern, ranks_of, reason, refused
from gptoss_mlx.tokenizer_files.formats import (
    CHECKSUM,
    O200K_PATTERN,
    pack,
    read_file,
    read_ranks,
    tokenizer_json,
    unpack,
)

_TOKENIZER_REMEDY = "get the model's tokenizer.json again and convert it again"
_BLANKS = 500_000
"""Longest run of blanks encoded at once, because tiktoken's regex engine fails on about a million."""
_BLANK_RUN = re.compile(rf"(?<!\s)\s{{{_BLANKS + 1},}}")


class Tokenizer:
    """A byte-level BPE vocabulary with harmony's markers.

    ``special`` maps each marker's text to its id, including reserved markers. ``vocab_size`` is the highest id plus
    one. A model's embedding may have more rows.
    """

    def __init__(
        self, tokens: Sequence[bytes], special: dict[str, int], pattern: str, added: Sequence[AddedToken] = ()
    ) -> None:
        """Build a vocabulary from its parts. ``pattern`` splits text before byte pairs are merged.

        ``tokens[id]`` holds an ordinary token's bytes, or ``b""`` if the id has no token. The id is also its merge
        rank. ``added`` are further tokens of text, which merges do not produce.

        Raises ValueError, saying what is wrong, when this is no byte-level vocabulary with harmony's markers.
        """
        from tiktoken import Encoding

        ranks = ranks_of(tokens)
        check_ids(tokens, special, added)
        self.special = dict(special)
        self.vocab_size = 1 + max(len(tokens) - 1, *special.values(), *(token.id for token in added))
        self._tokens = tokens
        self._pattern = pattern
        self._names = {id: text for text, id in special.items()}
        self._bpe = Encoding("harmony", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        ranks.clear()  # the encoder has its own copy: 13 MB less for the published vocabulary
        self._added = AddedTokens(tuple(added), tuple(special))
        self._added_bytes = {token.id: token.text.encode() for token in added}
        if pattern != O200K_PATTERN:
            check_pattern(pattern)
            self._merge("A sample, of 12 words:\n  \tx é 漢字 🙂")

    @classmethod
    def from_file(cls, tokenizer_json: str | Path) -> "Tokenizer":
        """Read a checkpoint's ``tokenizer.json``. Raises CheckpointError when it is damaged or no gpt-oss tokenizer."""
        path = Path(tokenizer_json)
        with refused(path, CheckpointError, "no gpt-oss tokenizer", "get the file again"):
            return cls(*read_file(path))

    @classmethod
    def bundled(cls) -> "Tokenizer":
        """Load the published vocabulary (o200k_harmony) from the bundled ranks. Raises ModelFolderError if damaged."""
        path = Path(__file__).with_name("o200k_base.tiktoken.xz")
        with refused(path, ModelFolderError, "damaged", "install gptoss-mac again"):
            return cls(*read_ranks(path))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load the compact form that ``save`` wrote. Raises ModelFolderError when it is missing, damaged or newer."""
        with refused(Path(path), ModelFolderError, "damaged", "convert the model again"):
            return cls(*unpack(Path(path).read_bytes()))

    def save(self, path: str | Path) -> None:
        """Write the compact form. Raises StorageError when the file cannot be written."""
        try:
            Path(path).write_bytes(self._packed())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error

    def _packed(self) -> bytes:
        return pack(self._tokens, self.special, self._pattern, self._added.tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary as a parsed ``tokenizer.json``. Raises ValueError when that form cannot hold it."""
        return tokenizer_json(self._tokens, self.special, self._pattern, self._added.tokens)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the compact form, in hex. It is equal for equal tokens, markers and split pattern."""
        return self._packed()[-CHECKSUM:].hex()

    def encode(self, text: str) -> list[int]:
        """Return the ordinary token ids of ``text``, never a marker's. An unpaired surrogate is encoded as U+FFFD.

        A run of more than 500,000 blanks is cut into pieces of that length, which are encoded one by one. Raises
        ModelFolderError when the vocabulary's split pattern fails on the text. The published pattern never fails.
        """
        pieces = self._added.split(text)
        try:
            return [id for piece in pieces for id in ((piece,) if isinstance(piece, int) else self._encode(piece))]
        except ValueError as error:
            raise ModelFolderError(f"the tokenizer cannot encode this text: {error}; {_TOKENIZER_REMEDY}") from None

    def _encode(self, text: str) -> list[int]:
        cuts = [cut for run in _BLANK_RUN.finditer(text) for cut in range(run.start() + _BLANKS, run.end(), _BLANKS)]
        if not cuts:
            return self._merge(text)
        pieces = (text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))
        return [id for piece in pieces for id in self._merge(piece)]

    def _merge(self, text: str) -> list[int]:
        """Return the ids of a text. Raises ValueError where the split pattern fails on it, or loses a part of it."""
        try:  # where a pattern backtracks too much, `encode` raises and `encode_ordinary` would panic
            ids = self._bpe.encode(text, allowed_special=set(), disallowed_special=())
        except BaseException as error:  # a Rust panic, after a pattern with an empty match, is not an Exception
            if not isinstance(error, ValueError) and type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"its split pattern cannot be used ({reason(error)})") from None
        if self._pattern != O200K_PATTERN:  # tiktoken skips text that a pattern does not match
            paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if self.decode(ids) != paired:
                raise ValueError("its split pattern leaves out a part of the text")
        return ids

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one ordinary token, ``b""`` for a marker or an unused id."""
        if id in self._added_bytes:
            return self._added_bytes[id]
        return self._tokens[id] if 0 <= id < len(self._tokens) else b""

    def decode_bytes(self, ids: Iterable[int], *, markers: bool = False) -> bytes:
        """Return the bytes of ordinary tokens. ``markers=True`` also writes markers out, such as ``<|end|>``.

        An unused id has no bytes. With ``markers=True`` it is written as ``<|reserved_N|>``.
        """
        if not markers:
            return b"".join(map(self.token_bytes, ids))
        return b"".join(
            self.token_bytes(id) or self._names.get(id, f"<|reserved_{id}|>").encode("utf-8", "replace") for id in ids
        )

    def decode(self, ids: Iterable[int], *, markers: bool = False) -> str:
        """Return ``decode_bytes`` as text. Each broken UTF-8 sequence becomes U+FFFD."""
        return self.decode_bytes(ids, markers=markers).decode("utf-8", "replace")
