"""Every error a user can meet. Each has one line that names the cause and the remedy, and an exit code.

The command line prints ``str(error)`` and exits with ``error.exit_code``. Knows nothing of where errors are raised.
"""


class GptOssError(Exception):
    """Base of the errors below. ``str()`` is one line that can be shown to a user."""

    exit_code = 1

    def __str__(self) -> str:
        return shown(super().__str__())


class UsageError(GptOssError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class CheckpointError(GptOssError):
    """A source checkpoint is incomplete, damaged, or not gpt-oss."""

    exit_code = 3


class ModelFolderError(GptOssError):
    """A converted model folder is damaged, incomplete, or from a newer version."""

    exit_code = 3


class ModelNotInstalledError(GptOssError):
    """No model of that name is installed on this machine."""

    exit_code = 4


class NotConvertedError(ModelNotInstalledError):
    """A folder that was named as a model is a checkpoint, ``folder``, which can be converted into one."""

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message)
        self.folder = folder


class StorageError(GptOssError):
    """Writing failed: the disk is full, the target exists, or a permission is missing."""

    exit_code = 5


class ContextLengthError(GptOssError):
    """A prompt does not fit the model's context."""

    exit_code = 6

    @classmethod
    def of(cls, tokens: int, limit: int, what: str = "prompt") -> "ContextLengthError":
        """Return the error of a text of ``tokens`` where the context holds ``limit``."""
        return cls(f"the {what} has {tokens:,} tokens, the model's context holds {limit:,}; shorten it")


class MemoryBudgetError(GptOssError):
    """A model or a row needs more memory than is allowed."""

    exit_code = 7


class SessionError(GptOssError):
    """A saved session is missing or damaged."""

    exit_code = 4


class HistoryError(GptOssError):
    """What was said cannot be kept or read: the database is damaged, of a newer version, or out of reach."""

    exit_code = 5


class NoAnswerError(GptOssError):
    """Generation stopped before an answer began. There may be a thought, but a thought is no answer."""

    exit_code = 8


class CutOffError(GptOssError):
    """An answer was ended before the model ended it, by a limit or because it repeated itself. ``answer`` is what there
    is of it, where it was not shown."""

    exit_code = 13

    def __init__(self, message: str, answer: str = "") -> None:
        super().__init__(message)
        self.answer = answer


class HarmonyError(GptOssError):
    """A conversation cannot be rendered in harmony, because its author malformed a message or a function."""

    exit_code = 2


class EngineError(GptOssError):
    """The model could not be run: memory ran out, or MLX failed."""

    exit_code = 11


class RankError(GptOssError):
    """A process that holds a part of the model was lost, did not start, or does not fit the others. ``code`` is its own
    exit code, where it has failed by itself."""

    exit_code = 14

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.exit_code = code or RankError.exit_code


class GrammarError(GptOssError):
    """A schema, regex or grammar is invalid, or has a part that cannot be enforced. ``path`` says where in it."""

    exit_code = 2

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class ConstraintError(GptOssError):
    """A row cannot go on under its constraint: nothing is allowed, or following it takes too much work."""

    exit_code = 11


class KernelError(GptOssError):
    """A shader's result on this machine differs from that of plain MLX."""

    exit_code = 9


class HubError(GptOssError):
    """The Hugging Face Hub, or what is between it and this machine, did not give what was asked for."""

    exit_code = 12


class RequestError(GptOssError):
    """A request is malformed or asks for something unsupported. ``param`` names the field at fault."""

    exit_code = 2

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PeerError(GptOssError):
    """A program that is measured beside others failed, ended, or did not answer in time."""


class BatchLinesError(GptOssError):
    """A batch has finished, but some of its lines could not be answered."""

    exit_code = 10


def shown(text: str) -> str:
    """Return ``text`` in one line, with each character that is not printable escaped. Use it for names and messages,
    because paths, models and users put text into them that a terminal might obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object, most: int = 60) -> str:
    """Return a value from outside as Python writes it, cut to ``most`` characters, however deep or long it is."""
    try:
        return repr(value)[:most]
    except (RecursionError, ValueError):  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too large to show"


def one_line(error: BaseException) -> str:
    """Return another library's error message in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__
