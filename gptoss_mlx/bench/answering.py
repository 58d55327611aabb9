"""Answer the questions of ``peer`` for a program in Python that runs on MLX. Knows no program and no model."""

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
    """Answer questions until standard input ends. ``make(model, options)`` loads a program.

    Only answers go to standard output: whatever the program prints there goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    program: Program | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            begin = time.perf_counter()
            match question["call"]:
                case "load":
                    program = make(question["model"], question["options"])
                    answer = {"seconds": time.perf_counter() - begin}
                case "prefill" | "decode" as call:
                    logits = getattr(program, call)(question["tokens"])
                    answer = {"seconds": time.perf_counter() - begin}
                    if question["logits"]:
                        np.array(logits.astype(mx.float32)).tofile(question["logits"])
                case "generate":
                    assert program is not None
                    program.generate(question["count"])
                    answer = {"seconds": time.perf_counter() - begin}
                case "usage":
                    answer = usage()
                case call:
                    raise UsageError(f"{call!r} is no question")
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer), file=answers)


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
