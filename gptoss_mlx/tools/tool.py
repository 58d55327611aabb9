"""A tool that can be run: what the model reads of it, and what does its work, in a thread and for a limited time."""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from gptoss_mlx.errors import shown
from gptoss_mlx.harmony import Function, Namespace

SECONDS = 60.0
"""How long a call may take unless its tool says otherwise."""

MOST_CHARACTERS = 30_000
"""Of a result that the model reads, about 10,000 tokens. The middle of a longer one is left out."""

POLL_SECONDS = 0.05

Run = Callable[[dict[str, Any], threading.Event], str]
"""Does the work of a call with these arguments. It may end early once the event is set. What it raises, the model is
told."""


@dataclass(frozen=True)
class Tool:
    """``declared`` is what the model reads: a function, or one of the namespaces that models were trained with, which
    are called with text (the argument ``code``). ``source`` is where the tool comes from. The calls of a ``trusted``
    one need nobody's consent. ``seconds`` limits a call."""

    declared: Function | Namespace
    run: Run
    source: str
    trusted: bool = False
    seconds: float = SECONDS

    @property
    def name(self) -> str:
        """Return the name it is called by."""
        return self.declared.name


@dataclass(frozen=True)
class Outcome:
    """What the model is told of a call, and whether the call ``failed``."""

    text: str
    failed: bool = False


class ToolFailure(Exception):
    """A call failed, in words for the model."""


NOT_ALLOWED = Outcome("Error: the user did not allow this call.", failed=True)


def perform(tool: Tool, arguments: dict[str, Any], cancelled: Callable[[], bool]) -> Outcome | None:
    """Run a call and return its outcome, or None once ``cancelled``. A call that is cancelled or takes too long is
    asked to end, and nobody waits for it."""
    found: list[Outcome] = []
    stop = threading.Event()
    context = copy_context()
    thread = threading.Thread(
        target=lambda: found.append(context.run(_outcome, tool, arguments, stop)), daemon=True, name=f"tool {tool.name}"
    )
    until = time.monotonic() + tool.seconds
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if cancelled():
                return None
            if time.monotonic() > until and not found:
                return Outcome(f"Error: {tool.name} did not end within {tool.seconds:g} seconds.", failed=True)
    finally:
        stop.set()
    return found[0]


def _outcome(tool: Tool, arguments: dict[str, Any], stop: threading.Event) -> Outcome:
    try:
        return Outcome(_shortened(tool.run(arguments, stop)))
    except ToolFailure as error:
        return Outcome(_shortened(f"Error: {error}"), failed=True)
    except BaseException as error:  # also SystemExit, because a tool must not end the program
        said = shown(str(error))
        return Outcome(_shortened(f"Error: {type(error).__name__}{': ' if said else ''}{said}"), failed=True)


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} characters left out]\n{text[-half:]}"
