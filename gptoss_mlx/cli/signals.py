"""What ends a program from outside: Ctrl-C, SIGTERM (a service manager's stop) and SIGHUP (the terminal is gone).

Imports next to nothing: until this module has the signals in hand, a Ctrl-C is a traceback.
"""

import atexit
import errno
import os
import signal
import sys

TYPE_CHECKING = False  # as typing's, which takes milliseconds to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_SECONDS = 0.002


def ended_by_signals(run: "Callable[[], None]") -> None:
    """Call ``run``; a signal ends it by an exception, so that it can clean up: KeyboardInterrupt or SystemExit.

    The process then exits with 128 more than the signal's number, and says nothing. What was ignored on arrival stays
    so, as ``nohup`` wants it. Afterwards a signal ends the process at once, and once Python takes itself apart it is
    too late for one.
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
    """The exit code that tells a shell which signal ended a program."""
    return 128 + number


def taken(number: int) -> bool:
    """Whether a signal is ours to handle: nobody asked for it to be ignored before we came."""
    return signal.getsignal(number) is not signal.SIG_IGN


def hang_up() -> None:
    """After SIGHUP: what is still said to the terminal goes nowhere, where it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if _is_terminal(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_terminal(descriptor: int) -> bool:
    """Also of one that is gone, which ``isatty`` denies."""
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
        # An exception raised in an import may become another: mlx's and numpy's C code make it an ImportError. The
        # import ends soon; the signal comes again until it has.
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
