"""Every error a user can meet. Each carries one line that names the thing and the remedy, and an exit code.

Knows nothing of where it is raised; the command line prints ``str(error)`` and exits with ``error.exit_code``.
"""


class GptOssError(Exception):
    """Base of the errors below. ``str()`` is one line, fit to show to a user."""

    exit_code = 1

    def __str__(self) -> str:
        return shown(super().__str__())


class UsageError(GptOssError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class CheckpointError(GptOssError):
    """A source checkpoint is missing something, damaged, or not gpt-oss."""

    exit_code = 3


class ModelFolderError(GptOssError):
    """A converted model folder is damaged, incomplete, or from a newer version."""

    exit_code = 3


class ModelNotInstalledError(GptOssError):
    """A model name stands for nothing on this machine yet."""

    exit_code = 4


class StorageError(GptOssError):
    """Writing failed: the disk is full, the target exists, or a permission is missing."""

    exit_code = 5


class ContextLengthError(GptOssError):
    """A prompt does not fit the model's context."""

    exit_code = 6


class MemoryBudgetError(GptOssError):
    """What is asked for does not fit the memory allowed."""

    exit_code = 7


class SessionError(GptOssError):
    """A saved conversation is not there, or damaged."""

    exit_code = 4


class NoAnswerError(GptOssError):
    """Generation stopped before an answer began: there is a thought at most, and that is no answer."""

    exit_code = 8


class HarmonyError(GptOssError):
    """A conversation cannot be written in harmony: a message or function is malformed by its author."""

    exit_code = 2


class EngineError(GptOssError):
    """The model could not be run: memory ran out, or MLX failed."""

    exit_code = 11


class KernelError(GptOssError):
    """A shader computes something else on this machine than plain MLX does."""

    exit_code = 9


class RequestError(GptOssError):
    """A request is malformed, or asks for what cannot be done. ``param`` names the field at fault."""

    exit_code = 2

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BatchLinesError(GptOssError):
    """A batch is through, but some of its lines could not be answered."""

    exit_code = 10


def shown(text: str) -> str:
    """In one line, all of it visible and none of it obeyed by a terminal: what is not printable is escaped.

    For names and messages, which have paths, models and users in them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object, most: int = 60) -> str:
    """A value found in a file as Python writes it, cut to ``most`` characters, however deep or long it is."""
    try:
        return repr(value)[:most]
    except (RecursionError, ValueError):  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too large to show"


def one_line(error: BaseException) -> str:
    """What another library's error says, in one line that is short enough to show."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__
