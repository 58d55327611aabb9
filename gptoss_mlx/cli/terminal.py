"""A terminal while a reply is under way: a signal to end is a request, keys do not show, and text cannot steer it.

Text and JSON are made fit to be written here, to a terminal or elsewhere. Knows nothing of what they say.
"""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gptoss_mlx.cli.signals import ENDING, code, hang_up, taken

OnProgress = Callable[[int, int], None]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Without control characters but line ends and tabs: what a model writes must not move the cursor or more."""
    return _CONTROL.sub("", text)


def print_json(value: Any) -> None:
    """To standard output, as it is where the encoding allows it, else with JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text, flush=True)


@dataclass
class Interruption:
    """The signal that asked for a stop; None while none has."""

    number: int | None = None

    def end(self) -> None:
        """End the program as that signal would have; nothing where none came."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(code(self.number))


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[Interruption]:
    """While inside, the first Ctrl-C, SIGTERM or SIGHUP calls ``stop``; a second ends the program, for what hangs.

    A Ctrl-C is taken also where it was ignored on arrival, as a shell does for what runs in the background.
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
    """While inside, a signal ends the program out of the function given, which calls ``progress``, and nowhere else.

    For work that undoes what it did when its report of progress raises: other moments may be in the middle of a step.
    """
    with on_interrupt(lambda: None) as asked:

        def report(done: int, total: int) -> None:
            asked.end()
            progress(done, total)

        yield report


@contextmanager
def without_echo() -> Iterator[None]:
    """Keys pressed now are kept for the next prompt, but not shown: they would tear what is being redrawn."""
    if not sys.stdin.isatty():
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):  # a terminal that is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
