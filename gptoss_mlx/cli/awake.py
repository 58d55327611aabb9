"""Keep a Mac from sleeping while a long run works. Knows nothing of the run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

AllowSleep = Annotated[bool, typer.Option("--allow-sleep", help="Let a Mac fall asleep meanwhile when nobody uses it.")]


@contextmanager
def awake(allow_sleep: bool = False) -> Iterator[None]:
    """Keep a Mac from idle sleep inside the block, unless ``allow_sleep``. Elsewhere do nothing.

    ``caffeinate -i`` prevents the sleep of an idle Mac, not that of a closed lid. With ``-w`` it ends by itself should
    this process be killed. Without a working caffeinate the block runs all the same.
    """
    child = None if allow_sleep or sys.platform != "darwin" else _caffeinate()
    try:
        yield
    finally:
        if child is not None:
            child.terminate()
            child.wait()


def _caffeinate() -> subprocess.Popen[bytes] | None:
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            ["caffeinate", "-i", "-w", str(os.getpid())],
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,  # a Ctrl-C in the terminal is for the run, which may go on for a while
        )
    except OSError:
        return None
