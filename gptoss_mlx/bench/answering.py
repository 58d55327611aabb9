"""Answer the questions of ``peer``: for a program in Python that runs on MLX (``serve``), or for any other
(``answer_each``). Knows no program and no model."""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from gptoss_mlx.errors import UsageError, one_line


class Program(Protocol):
    """A loaded model. ``prefill`` and ``decode`` wait for the logits of the last position of each sequence, [S, V]."""

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        """Forget everything, and read one sequence for each list of ids."""

    def decode(self, tokens: Sequence[int]) -> mx.array:
        """Read the next id of each sequence."""

    def generate(self, count: int) -> None:
        """Compute ``count`` steps in the program's own loop. Begin with an id of each sequence that is drawn from the
        logits of its prompt."""


def serve(make: Callable[[str, dict[str, Any]], Program]) -> None:
    """Answer the questions for a program that ``make(model, options)`` loads, until standard input ends."""
    program: Program | None = None

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal program
        begin = time.perf_counter()
        match question["call"]:
            case "load":
                program = make(question["model"], question["options"])
                return {"seconds": time.perf_counter() - begin}
            case "prefill" | "decode" as call:
                logits = getattr(program, call)(question["tokens"])
                seconds = time.perf_counter() - begin
                if question["logits"]:
                    np.array(logits.astype(mx.float32)).tofile(question["logits"])
                return {"seconds": seconds}
            case "generate":
                assert program is not None
                program.generate(question["count"])
                return {"seconds": time.perf_counter() - begin}
            case "usage":
                return usage()
            case call:
                raise UsageError(f"{call!r} is no question")

    answer_each(answer)


def answer_each(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Print what ``answer`` returns to each question, or its error in one line, until standard input ends.

    Only answers go to standard output: whatever else is printed there goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            said = answer(json.loads(line))
        except Exception as error:
            said = {"error": one_line(error)}
        print(json.dumps(said), file=answers)


def usage() -> dict[str, Any]:
    """Return this process's CPU seconds and the most bytes that were in use."""
    on_gpu = mx.get_peak_memory() if mx.metal.is_available() else 0
    return {"cpu": time.process_time(), "memory": max(_most_resident(), on_gpu)}


def _most_resident() -> int:
    """Linux's ``ru_maxrss`` begins with the parent's, and its VmHWM does not."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
