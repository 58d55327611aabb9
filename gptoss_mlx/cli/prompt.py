"""Read a message from the terminal: several lines, a history, completion. Knows no conversation."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import completion_is_selected
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from gptoss_mlx.errors import UsageError
from gptoss_mlx.screen.style import printable
from gptoss_mlx.text_input import decoded
from gptoss_mlx.typed_lines import add_typed, read_typed

QUOTES = '"""'
PASTE_ON = "\x1b[?2004h"
PASTE_OFF = "\x1b[?2004l"
"""DEC mode 2004: the terminal marks what is pasted. It stays on while a reply is written."""

ECHOED_LINES = 100

STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "noreverse"})
Values = Callable[[str], Iterable[str]]


class Prompt:
    """Asks for messages. ``commands`` are completed, and their arguments from what ``values`` returns for a command.
    ``status`` returns the line below the input."""

    def __init__(self, commands: Iterable[str], values: Values, status: Callable[[], str]) -> None:
        self._status = status
        self._shown_status = ""
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=_Typed(),
            key_bindings=_keys(),
            completer=_Words(tuple(commands), values),
            complete_while_typing=False,
            enable_open_in_editor=True,
            erase_when_done=True,
            bottom_toolbar=lambda: FormattedText([("", self._shown_status)]),
            style=STYLE,
        )

    def read(self, default: str = "") -> str:
        """Return what the user typed, with ``default`` to begin with.

        Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C, and UsageError when it cannot be decoded.
        """
        self._shown_status = self._status()  # once, because every key draws it
        typed = self._session.prompt(default=default)
        text = decoded(typed.encode(sys.stdin.encoding, "surrogateescape"), "the line")
        sys.stdout.write(PASTE_ON + _echo(text))
        sys.stdout.flush()
        return unquoted(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        sys.stdout.write(PASTE_OFF)
        sys.stdout.flush()


def _echo(text: str) -> str:
    """Return what stays on the screen of a message: lines to copy, also of one taller than the screen."""
    lines = printable(text).split("\n")
    more = len(lines) - ECHOED_LINES
    shown = lines if more <= 0 else [*lines[:ECHOED_LINES], f"… {more} more lines"]
    return "> " + "\n  ".join(shown) + "\n"


def unquoted(text: str) -> str:
    """Return ``text`` without the three quotation marks around several lines."""
    inner = text.strip()
    if inner.startswith(QUOTES) and inner.endswith(QUOTES) and len(inner) >= 2 * len(QUOTES):
        return inner[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def edited(text: str) -> str:
    """Return ``text`` as the user leaves it in an editor, ``$VISUAL`` or ``$EDITOR``. Raises UsageError."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.md"
        path.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(path)])
        except (OSError, ValueError) as error:
            raise UsageError(f"{editor}: cannot be started; set EDITOR to your editor") from error
        if done.returncode:
            raise UsageError(f"{editor}: ended with code {done.returncode}; the text is not used")
        return decoded(path.read_bytes(), "the text").rstrip("\n")


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.lstrip()
        open_quotes = text.startswith(QUOTES) and not (text.endswith(QUOTES) and len(text.rstrip()) >= 2 * len(QUOTES))
        if open_quotes:
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("enter", filter=completion_is_selected)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.complete_state = None

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class _Typed(History):
    """The file of typed lines, for prompt_toolkit."""

    def load_history_strings(self) -> Iterable[str]:
        return read_typed()

    def store_string(self, string: str) -> None:
        add_typed(string)


class _Words(Completer):
    """Completes commands, their arguments, and the paths of files."""

    def __init__(self, commands: tuple[str, ...], values: Values) -> None:
        self._commands = commands
        self._values = values
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        word = text.rsplit(maxsplit=1)[-1] if text and not text[-1].isspace() else ""
        command, space, rest = text.partition(" ")
        if word.startswith("@") and not text.startswith("/attach "):
            yield from self._paths.get_completions(Document(word[1:]), complete_event)
        elif not text.startswith("/"):
            return
        elif not space:
            yield from (Completion(name, -len(text)) for name in self._commands if name.startswith(text))
        elif command == "/attach":
            yield from self._paths.get_completions(Document(rest), complete_event)
        else:
            yield from (Completion(value, -len(rest)) for value in self._values(command) if value.startswith(rest))
