"""Text files that go with a message. Knows no terminal and no model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gptoss_mlx.errors import UsageError
from gptoss_mlx.text_input import decoded

MENTION = re.compile(r"""(?<!\S)@(?:"([^"\n]+)"|(\S+))""")
"""A path after an @ at the beginning of a word, in quotation marks if it has spaces."""

MOST_BYTES = 10_000_000
"""A larger file is refused before it is read: no context holds it."""


@dataclass(frozen=True)
class Attachment:
    """A file's ``name`` as it was given, its text and its size."""

    name: str
    text: str
    nbytes: int


def read_attachment(name: str) -> Attachment:
    """Read a text file. ``~`` is the home folder. Raises UsageError if it is no file, too large or not text."""
    path = Path(name).expanduser()
    try:
        if not path.is_file():
            raise UsageError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
        nbytes = path.stat().st_size
        if nbytes > MOST_BYTES:
            raise UsageError(f"{name}: {nbytes:,} bytes are more than a model reads; attach a part of it")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    try:
        text = decoded(data, name)
    except UsageError as error:
        raise UsageError(f"{name}: not a text file; only text can be attached") from error
    if "\0" in text:
        raise UsageError(f"{name}: not a text file; only text can be attached")
    return Attachment(name, text, len(data))


def mentioned(text: str) -> list[str]:
    """Return the paths of files that ``text`` names with an @. Other words that begin so are no mentions."""
    names = (quoted or word for quoted, word in MENTION.findall(text))
    return list(dict.fromkeys(found for name in names if (found := _existing(name))))


def with_attachments(text: str, files: Iterable[Attachment]) -> str:
    """Return the message ``text`` after its files, each in a fence that its text does not end."""
    parts = []
    for file in files:
        longest = max((len(run) for run in re.findall(r"`{3,}", file.text)), default=2)
        fence = "`" * (longest + 1)
        end = "" if file.text.endswith("\n") or not file.text else "\n"
        parts.append(f"{file.name}:\n{fence}\n{file.text}{end}{fence}")
    return "\n\n".join([*parts, text])


def _existing(name: str) -> str | None:
    """Return the name of the file that ``name`` means. A word may end in a mark of punctuation that is not its name."""
    for candidate in (name, name.rstrip(".,;:!?)")):
        try:
            if candidate and Path(candidate).expanduser().exists():
                return candidate
        except (OSError, RuntimeError, ValueError):  # too long a name, an unknown user, a null byte
            return None
    return None
