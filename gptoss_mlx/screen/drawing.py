"""A thread that draws, so that decoding never waits for a terminal.

It draws at most ``RATE`` times a second, and less often where drawing is slow.
"""

import threading
import time
from collections.abc import Callable
from typing import IO

RATE = 15
"""Draws a second. More is not seen, and each costs time."""

SHARE = 0.06
"""The part of one core that drawing may take while a reply arrives."""


class Drawing:
    """Runs what changes a page, then draws the page, in a thread of its own.

    ``draw`` is called with whether it is the last time, and returns what is written to ``out``.
    """

    def __init__(self, draw: Callable[[bool], str], out: IO[str]) -> None:
        self._draw = draw
        self._out = out
        self._changes: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="drawing", daemon=True)
        self._thread.start()

    def put(self, change: Callable[[], None]) -> None:
        """Have ``change`` called before the next draw. Raises what an earlier draw raised, such as OSError."""
        self._raise()
        with self._lock:
            self._changes.append(change)
        self._changed.set()

    def close(self) -> None:
        """Draw all that is left, and end the thread. Raises what drawing raised."""
        self._closing.set()
        self._changed.set()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            closing = False
            while not closing:
                self._changed.wait()
                closing = self._closing.is_set()  # before the changes are taken, so that none is missed
                began = time.thread_time()
                self._step(closing)
                cost = time.thread_time() - began
                self._closing.wait(max(1 / RATE, cost / SHARE))
        except BaseException as error:
            self._error = error

    def _step(self, closing: bool) -> None:
        self._changed.clear()
        with self._lock:
            changes, self._changes = self._changes, []
        for change in changes:
            change()
        if text := self._draw(closing):
            self._out.write(text)
            self._out.flush()
