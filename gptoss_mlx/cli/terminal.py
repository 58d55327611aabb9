"""Control the terminal while a program works, and make JSON safe to write to it.

A signal asks the work to stop, and pressed keys do not show. The module knows nothing of the work or the text.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from gptoss_mlx.cli.signals import ENDING, code, hang_up, taken

if TYPE_CHECKING:
    from rich.console import Console

OnProgress = Callable[[int, int], None]
TABLE_COLUMNS = 80
"""What the widest table needs."""


def print_json(value: Any) -> None:
    """Print ``value`` as JSON, with JSON's escapes if the encoding of standard output needs them."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text, flush=True)


def table_console() -> "Console":
    """Return a console for tables. On a narrow terminal their lines wrap, because rich would leave figures out."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, TABLE_COLUMNS)
    return console


def at_terminal() -> bool:
    """Return whether there is a user to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str) -> bool:
    """Ask on standard error, and return whether the user typed yes. Return False without a terminal to ask at."""
    return at_terminal() and answer_to(f"{question} [y/N] ").lower() in ("y", "yes")


def answer_to(question: str) -> str:
    """Ask on standard error, and return what the user typed, "n" for the end of the input."""
    print(question, end="", file=sys.stderr, flush=True)
    # Not through sys.stdin, because after a first read a chat could not choose how it decodes.
    typed = os.read(sys.stdin.fileno(), 1024)
    return typed.decode(errors="replace").strip() if typed else "n"


@dataclass
class Interruption:
    """The ``number`` of the signal that asked for a stop, or None."""

    number: int | None = None

    def end(self) -> None:
        """End the program as the signal would have. Return if there was none."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(code(self.number))


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[Interruption]:
    """Call ``stop`` at the first Ctrl-C, SIGTERM or SIGHUP inside the block. A second one ends the program.

    Yield the interruption, which then has the signal's number. Ctrl-C is handled even if it was ignored at the start,
    as it is in programs that a shell started in the background.
    """
    asked = Interruption()
    previous = {number: signal.getsignal(number) for number in ENDING if number == signal.SIGINT or taken(number)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        asked.number = number
        restore()
        if number == signal.SIGHUP:
            hang_up()
        stop()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield asked
    finally:
        restore()


@contextmanager
def between_calls(progress: OnProgress) -> Iterator[OnProgress]:
    """Yield a function that calls ``progress``. Inside the block a signal ends the program only in that function.

    This is for work that can undo itself when its progress report raises, but not in the middle of a step.
    """
    with on_interrupt(lambda: None) as asked:

        def report(done: int, total: int) -> None:
            asked.end()
            progress(done, total)

        yield report


@contextmanager
def without_echo() -> Iterator[None]:
    """Hide keys pressed inside the block, because they would disturb the display. The next prompt still reads
    them, line ends and all."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = [*before[:3], before[3] & ~(termios.ECHO | termios.ICANON), *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
