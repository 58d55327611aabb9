"""Handle the signals that end a program: Ctrl-C, SIGTERM (from a service manager) and SIGHUP (a closed terminal).

The module imports little, because a Ctrl-C before it handles the signals prints a traceback.
"""

import atexit
import errno
import os
import signal
import sys

TYPE_CHECKING = False
"""Replaces ``typing.TYPE_CHECKING``, because importing ``typing`` takes milliseconds."""

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_SECONDS = 0.002
"""Delay before a signal that arrived during an import is raised again."""


def ended_by_signals(run: "Callable[[], None]") -> None:
    """Call ``run``. A signal raises KeyboardInterrupt or SystemExit in it, so that it can clean up.

    The process then exits silently with 128 plus the signal's number. A signal that was ignored at the start, as under
    ``nohup``, stays ignored. After ``run`` a signal ends the process at once. While Python shuts down, signals are
    ignored.
    """
    try:
        try:
            _handle(_end)
            run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _handle(_leave)
            atexit.register(_handle, signal.SIG_IGN)
    except KeyboardInterrupt:
        sys.exit(code(signal.SIGINT))


def code(number: int) -> int:
    """Return the exit code that tells a shell which signal ended the program."""
    return 128 + number


def taken(number: int) -> bool:
    """Return whether this program handles the signal: it does unless the signal was ignored at the start."""
    return signal.getsignal(number) is not signal.SIG_IGN


def hang_up() -> None:
    """Redirect the closed terminal's streams to the null device after SIGHUP, because using them would fail."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if _is_terminal(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_terminal(descriptor: int) -> bool:
    """Return whether ``descriptor`` is a terminal. A closed one counts too, unlike in ``isatty``."""
    try:
        os.get_terminal_size(descriptor)
    except OSError as error:
        return error.errno == errno.EIO
    return True


def _handle(handler: "Callable[[int, FrameType | None], None] | signal.Handlers") -> None:
    for number in ENDING:
        if taken(number):
            signal.signal(number, handler)


def _end(number: int, frame: "FrameType | None") -> None:
    if _importing(frame):
        # The C code of mlx and numpy turns an exception during their import into an ImportError. So the signal is
        # raised again until the import has ended.
        signal.signal(signal.SIGALRM, lambda alarm, at: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGHUP:
        hang_up()
    raise SystemExit(code(number))


def _leave(number: int, frame: "FrameType | None") -> None:
    os._exit(code(number))


def _importing(frame: "FrameType | None") -> bool:
    while frame is not None and frame.f_code is not ended_by_signals.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
