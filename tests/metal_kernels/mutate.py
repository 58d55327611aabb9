"""Changes the shaders in one place at a time and runs the tests on each mutant. Some test has to fail.

Run as ``python -m tests.metal_kernels.mutate [WORD]``. With a word, only mutants whose description contains it run.
There are three kinds: a barrier is removed; a bound is moved by one, up or down; two row offsets are swapped, which are
positions in one array or variables in one statement. A suite lists mutants that compute the same as equivalent, with
the reason.
"""

import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue

from metal_kernels import dispatches
from metal_kernels.emulator import EmulatorError, LintError
from metal_kernels.source import SourceError, without_comments
from tests.metal_kernels.shaders.common import shader_files
from tests.metal_kernels.shaders.suites import SUITES

FILES = {shader: shader_files(shader) for suite in SUITES for shader in suite.operations}
SPAWN = get_context("spawn")
SECONDS = 600
"""Time for the tests of one mutant, which may never end."""

OFFSETS = (
    "row",
    "choice",
    "expert",
    "slot",
    "first",
    "matrix_row",
    "lane",
    "groups",
    "g",
    "n",
    "r",
    "b",
    "i",
    "j",
    "k",
    "s",
    "d",
    "h",
    "split",
    "own",
    "run",
    "leader",
    "dim",
    "plane",
)
"""Variables that positions are computed from."""

EQUIVALENT = {description: reason for suite in SUITES for description, reason in suite.equivalent.items()}


@dataclass(frozen=True)
class Mutant:
    """A shader file with one place changed."""

    file: str
    line: int
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a shader file."""
    text = path.read_text()
    code = without_comments(text)
    seen: set[str] = set()
    described: Counter[str] = Counter()
    for start, stop, new in (*_barriers(code), *_bounds(code), *_offsets(code)):
        changed = text[:start] + new + text[stop:]
        if changed in seen or changed == text:
            continue
        seen.add(changed)
        pairs = list(zip(code.split("\n"), without_comments(changed).split("\n"), strict=True))
        differing = [number for number, (was, now) in enumerate(pairs) if was != now]
        was, now = (" / ".join(pairs[n][side].strip() for n in differing) for side in (0, 1))
        what = f"{was}  ->  {now or '(nothing)'}"
        described[what] += 1
        again = f" ({described[what]})" if described[what] > 1 else ""  # of lines that read the same
        yield Mutant(path.name, differing[0] + 1, what + again, changed)


Edit = tuple[int, int, str]


def _barriers(code: str) -> Iterator[Edit]:
    for match in re.finditer(r"\b\w+_barrier\([^;]*;", code):
        yield match.start(), match.end(), ""


def _bounds(code: str) -> Iterator[Edit]:
    """Yield moved bounds: right sides of comparisons, limits of min and clamp, rounding constants of divisions, array
    sizes."""
    for match in re.finditer(r" (<|>) (?!<|>)", code):
        start = match.end()
        stop = _end(code, start)
        for step in ("+", "-"):
            yield start, stop, f"({code[start:stop]} {step} 1)"
    for match in re.finditer(r"\b(min|clamp)\(", code):
        at = match.end()
        end = _end(code, at)
        while code[end] == ",":
            start = end + 2
            end = _end(code, end + 2)
            for step in ("+", "-"):
                yield start, end, f"({code[start:end]} {step} 1)"
    for match in re.finditer(r"\((\w+) \+ (\d+)\) / \d+", code):
        for change in (1, -1):
            yield match.start(2), match.end(2), str(int(match[2]) + change)
    # Arrays are only made shorter, because a longer one just leaves its end unused.
    for match in re.finditer(r"^\s*(?:threadgroup )?(?:float[24]?|uint4?|Eight) [^=;()]*\[[^;()]*;", code, re.M):
        for size in re.finditer(r"\[([^\]]+)\]", match[0]):
            start = match.start() + size.start(1)
            yield start, start + len(size[1]), f"{size[1]} - 1"


def _end(code: str, at: int) -> int:
    """Return where the expression that begins at ``at`` ends."""
    depth = 0
    while True:
        char = code[at]
        if depth == 0 and (char in ";),?" or code.startswith((" &&", " ||", " ?"), at)):
            return at
        depth += (char in "([") - (char in ")]")
        at += 1


def _offsets(code: str) -> Iterator[Edit]:
    """Yield swaps of two offset variables in a statement, and of two positions in one array in a function."""
    for match in re.finditer(r"[^;{}]+", code):
        found = [
            m
            for m in re.finditer(r"(?<![\w.])(" + "|".join(OFFSETS) + r")\b(?![\w(]|\+\+)", match[0])
            if not match[0].lstrip().startswith(("METAL_FUNC", "template", "[[kernel]]", "#pragma once"))
        ]
        for a, b in combinations(found, 2):
            if a[0] != b[0] and not _commute(match[0], a, b):
                new = match[0][: a.start()] + b[0] + match[0][a.end() : b.start()] + a[0] + match[0][b.end() :]
                yield match.start(), match.end(), new
    for function in re.finditer(r"\)\s*\{\n(.*?)\n\}", code, re.S):
        subscripts: dict[str, list[re.Match[str]]] = {}
        for match in re.finditer(r"(?<!float |uint4 )(?<!uint )(?<!float2 )\b([\w.]+)\[([^\[\]]+)\]", function[1]):
            subscripts.setdefault(match[1], []).append(match)
        for found in subscripts.values():
            for a, b in combinations(found, 2):
                if a[2] != b[2]:
                    body = function[1]
                    base = function.start(1)
                    new = body[a.start(2) : a.end(2)], body[b.start(2) : b.end(2)]
                    yield base + a.start(2), base + b.end(2), new[1] + body[a.end(2) : b.start(2)] + new[0]


def _commute(statement: str, a: re.Match[str], b: re.Match[str]) -> bool:
    """Return whether the two are operands of one sum or one test for equality, where a swap changes nothing."""
    between = statement[a.end() : b.start()]
    before = statement[: a.start()]
    after = statement[b.end() :]
    free = not before.rstrip().endswith(("*", "/", "%", "-")) and not after.lstrip().startswith(("*", "/", "%"))
    return free and bool(re.fullmatch(r"\s*(\+|==)\s*(\w+( \* \w+)* \+ )*(u?int\()?", between))


def notice(mutant: Mutant, folder: Path) -> str | None:
    """Return the message of the first test that fails, or None if all pass."""
    (folder / mutant.file).write_text(mutant.text)
    try:
        for suite in SUITES:
            suite.check([name for name in suite.operations if mutant.file in FILES[name]], folder)
    except (LintError, SourceError) as error:
        return "does not compile: " + str(error).partition("\n")[0]
    except (AssertionError, EmulatorError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def all_mutants() -> list[Mutant]:
    """Return the mutants of every file of every shader."""
    files = dict.fromkeys(name for made_of in FILES.values() for name in made_of)
    return [mutant for name in files for mutant in mutants(dispatches.FOLDER / name)]


class Worker:
    """A process that runs the tests on mutants. It is replaced if a mutant crashes it or does not end."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._here, there = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """Return the verdict on a mutant and the message that led to it."""
        if str(mutant) in EQUIVALENT:
            return "equivalent", EQUIVALENT[str(mutant)]
        self._here.send(mutant)
        said: str | None = f"did not end within {SECONDS} s"
        try:
            if self._here.poll(SECONDS):
                said = self._here.recv()
            else:
                self._restart()
        except EOFError:
            self._process.join()
            said = f"crashed, signal {-self._process.exitcode}"
            assert self._process.exitcode < 0, "the tests themselves failed: see above"
            self._restart()
        if said is None:
            return "MISSED", ""
        return ("not compiling" if said.startswith("does not compile") else "noticed"), said

    def _restart(self) -> None:
        self._process.kill()
        self._process.join()
        self._start()


def _serve(there: Connection) -> None:
    while True:
        try:
            mutant = there.recv()
        except EOFError:  # there are no more
            return
        with tempfile.TemporaryDirectory() as scratch:
            for path in (*dispatches.FOLDER.glob("*.metal"), *dispatches.FOLDER.glob("*.h")):
                shutil.copy(path, scratch)
            there.send(notice(mutant, Path(scratch)))


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    every = all_mutants()
    chosen = [mutant for mutant in every if word in str(mutant)]
    counts: Counter[str] = Counter()
    workers: Queue[Worker] = Queue()

    def judged(mutant: Mutant) -> tuple[str, str]:
        worker = workers.get()
        try:
            return worker.judge(mutant)
        finally:
            workers.put(worker)

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch  # the cache would keep compiled mutants
        count = os.cpu_count() or 1
        for _ in range(count):
            workers.put(Worker())
        with ThreadPoolExecutor(count) as pool:
            for mutant, (kind, said) in zip(chosen, pool.map(judged, chosen), strict=True):
                counts[kind] += 1
                print(f"{kind:<13} {mutant.file}:{mutant.line}: {mutant.what}\n              {said}", flush=True)
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    stale = set(EQUIVALENT) - {str(mutant) for mutant in every}
    for description in sorted(stale):
        print(f"listed as equivalent, but no such mutant: {description}")
    sys.exit(bool(counts["MISSED"] or stale))


if __name__ == "__main__":
    main()
