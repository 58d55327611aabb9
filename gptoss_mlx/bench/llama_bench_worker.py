"""llama.cpp's ``llama-bench`` as a program to be measured: ``... llama_bench_worker PROGRAM``.

It is run for each piece of work, with one repetition after its own warm-up, and its own time is told. So a prompt that
only comes before generation is not read by itself, but by the run that generates. One sequence at a time.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any


class LlamaBench:
    """A GGUF file that ``program`` measures."""

    def __init__(self, program: str, model: str, threads: int) -> None:
        if not Path(model).is_file():
            raise ValueError(f"{model} is no file")
        self._command = [program, "-m", model, "-t", str(threads), "-r", "1", "-o", "json"]
        self._depth = 0

    def prefill(self, tokens: list[list[int]], timed: bool) -> float:
        """Return the seconds that a prompt of as many ids takes, or only note its length."""
        if len(tokens) != 1:
            raise ValueError("llama-bench decodes one sequence")
        length = len(tokens[0])
        self._depth = length if length > 1 else 0  # llama-bench begins with an id of its own
        return self._run("-p", length, "-n", 0) if timed else 0.0

    def generate(self, count: int) -> float:
        """Return the seconds of ``count`` steps after the last prompt."""
        return self._run("-p", 0, "-n", count, "-d", self._depth)

    def _run(self, *words: object) -> float:
        done = subprocess.run([*self._command, *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ValueError(f"exit code {done.returncode}" + (f" ({said[-1][:150]})" if said else ""))
        (test,) = json.loads(done.stdout)
        return test["samples_ns"][0] / 1e9


def usage() -> dict[str, Any]:
    """Return the CPU seconds of the runs so far, and the most bytes that were resident in one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss * unit}


def main() -> None:
    program = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    bench: LlamaBench | None = None
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any]
        try:
            match question["call"]:
                case "load":
                    bench = LlamaBench(program, question["model"], question["threads"])
                    answer = {"seconds": 0.0}
                case "usage":
                    answer = usage()
                case "prefill" if bench is not None:
                    answer = {"seconds": bench.prefill(question["tokens"], question["timed"])}
                case "generate" if bench is not None:
                    answer = {"seconds": bench.generate(question["count"])}
                case call:
                    raise ValueError(f"llama-bench cannot {call}")
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
