"""A terminal while a reply is under way: Ctrl-C is a request, keys do not show, and text cannot steer it.

Text, names and JSON are made fit to be written here, to a terminal or elsewhere. Knows nothing of what they say.
"""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Without control characters but line ends and tabs: what a model writes must not move the cursor or more."""
    return _CONTROL.sub("", text)


def escaped(name: str) -> str:
    """In one line, all of it visible and none of it obeyed: for names, which come from files, models and users."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def print_json(value: Any) -> None:
    """To standard output, as it is where the encoding allows it, else with JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    print(text, flush=True)


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """While inside, the first Ctrl-C calls ``stop``; a second raises KeyboardInterrupt, for a reply that hangs."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        stop()

    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
