"""What makes a vocabulary unusable, and the one line that says so of its file."""

import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gptoss_mlx.errors import GptOssError
from gptoss_mlx.tokenizer_files.added_tokens import AddedToken
from gptoss_mlx.tokenizer_files.formats import MAX_IDS

MARKERS = ("<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")


def ranks_of(tokens: Sequence[bytes]) -> dict[bytes, int]:
    """Return each token's id, which is its merge rank. Raises ValueError where they are no byte-level vocabulary."""
    ranks = dict(zip(tokens, range(len(tokens)), strict=True))
    gaps = tokens.count(b"")
    ranks.pop(b"", None)
    if len(ranks) + gaps != len(tokens):
        raise ValueError("two ids stand for the same token")
    if any(bytes((byte,)) not in ranks for byte in range(256)):
        raise ValueError("not every single byte is a token")
    if max(map(len, tokens)) > 255:
        raise ValueError("a token is longer than 255 bytes")
    return ranks


def check_ids(tokens: Sequence[bytes], special: dict[str, int], added: Sequence[AddedToken]) -> None:
    """Raise ValueError where one of harmony's markers is missing, or where two of all these are the same."""
    if missing := [marker for marker in MARKERS if marker not in special]:
        raise ValueError(f"the marker {missing[0]} is missing")
    if len(set(special.values())) != len(special):
        raise ValueError("two markers share an id")
    for text, id in special.items():
        if not text or not 0 <= id < MAX_IDS or (id < len(tokens) and tokens[id]):
            raise ValueError(f"the marker {text!r} cannot have the id {id}")
    if len({token.id for token in added}) != len(added) or len({token.text for token in added}) != len(added):
        raise ValueError("two added tokens are the same")
    for token in added:
        taken = token.id in special.values() or token.text in special
        own = (b"", token.text.encode())
        if taken or not token.text or (token.id < len(tokens) and tokens[token.id] not in own):
            raise ValueError(f"the added token {token.text!r:.60} cannot have the id {token.id}")


def check_pattern(pattern: str) -> None:
    """Raise ValueError for a split pattern that may match the empty string, where tiktoken panics.

    A look-around may allow an empty match only beside certain text. Encoding such text raises.
    """
    from tiktoken import Encoding

    ranks = {bytes((byte,)): byte for byte in range(256)}
    for before, after in (("q", "z"), ("q", ""), ("", "z")):
        tried = f"{before}(?:{pattern}){after}"
        around = Encoding("probe", pat_str=tried, mergeable_ranks=ranks, special_tokens={})
        if around.encode(before + after):
            raise ValueError("its split pattern may match nothing at all")


@contextmanager
def refused(path: Path, refusal: type[GptOssError], fault: str, remedy: str) -> Iterator[None]:
    """Raise ``refusal`` in place of what reading a vocabulary from ``path`` raises. ``fault`` says what such a file
    is."""
    try:
        yield
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, lzma.LZMAError) as error:
        raise refusal(f"{path}: {fault} ({reason(error)}); {remedy}") from error


def reason(error: BaseException) -> str:
    """Return the first line of an error."""
    if isinstance(error, KeyError):
        return f"nothing is known of {error.args[0]!r:.60}"
    return str(error).partition("\n")[0][:200]
