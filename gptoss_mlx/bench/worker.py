"""This runtime as a program to be measured: ``python -m gptoss_mlx.bench.worker``. ``peer`` describes the questions.

``serve`` answers for any program in Python that can import this package.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from gptoss_mlx.engine.context import Context
from gptoss_mlx.errors import UsageError, one_line
from gptoss_mlx.runtime import Runtime, load


class Program(Protocol):
    """A loaded model. Both methods wait for the logits of the last position of each sequence, [S, V]."""

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        """Forget everything, and read one sequence for each list of ids."""

    def decode(self, tokens: Sequence[int]) -> mx.array:
        """Read the next id of each sequence."""


class Ours:
    """A model folder in this runtime."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._runtime: Runtime = load(model, dtype=options.get("dtype"))
        self._contexts: list[Context] = []

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        self._contexts = []  # the old caches' memory is free before new ones take it
        self._contexts = [self._runtime.context() for _ in tokens]
        parts = [context.read(list(ids)) for context, ids in zip(self._contexts, tokens, strict=True)]
        logits = mx.concatenate(parts)
        mx.eval(logits)
        return logits

    def decode(self, tokens: Sequence[int]) -> mx.array:
        if len(tokens) != len(self._contexts):
            raise UsageError(f"{len(tokens)} ids for {len(self._contexts)} sequences")
        caches = [context.cache for context in self._contexts]
        model = self._runtime.model
        step = model.decode(mx.array(list(tokens)), caches)
        while step.repeat():
            pass
        logits = model.logits(step.x)
        mx.eval(logits, [cache.arrays() for cache in caches])
        return logits


def serve(make: type) -> None:
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
                case "usage":
                    answer = usage()
                case call:
                    raise UsageError(f"{call!r} is no question")
        except Exception as error:
            answer = {"error": one_line(error)}
        print(json.dumps(answer), file=answers)


def usage() -> dict[str, Any]:
    """Return this process's CPU seconds and the most bytes that were resident."""
    return {"cpu": time.process_time(), "memory": _most_resident()}


def _most_resident() -> int:
    """Linux's ``ru_maxrss`` begins with the parent's, and its VmHWM does not."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    serve(Ours)
