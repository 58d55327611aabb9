"""Changes the shaders in one place at a time and runs the tests on each mutant. Some test has to fail.

Run as ``python -m tests.metal_kernels.mutate [WORD ...]``. With words, only mutants whose kind or description contains
one of them run: ``guard:`` for a kind. ``mutations`` has the kinds. A suite lists mutants that compute the same as
equivalent, with the reason. A run that was interrupted goes on where it ended, unless a shader or a test has changed
since: ``out/mutants.jsonl`` keeps the verdicts until all are there.
"""

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue

from metal_kernels import build_cache, dispatches
from metal_kernels.emulator import EmulatorError, LintError
from metal_kernels.source import SourceError
from tests.metal_kernels.mutations import Mutant, mutants
from tests.metal_kernels.shaders.common import shader_files
from tests.metal_kernels.shaders.suites import SUITES

ROOT = Path(__file__).parent.parent.parent
KEPT = ROOT / "out" / "mutants.jsonl"
FILES = {shader: shader_files(shader) for suite in SUITES for shader in suite.operations}
SPAWN = get_context("spawn")
SECONDS = 600
"""Time for the tests of one mutant, which may never end."""

EQUIVALENT = {description: reason for suite in SUITES for description, reason in suite.equivalent.items()}


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


class Verdicts:
    """Verdicts in a file, each with a hash of the shaders and tests that led to it."""

    def __init__(self, file: Path, source: str) -> None:
        self.file = file
        self.source = source
        self.known: dict[str, tuple[str, str]] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            try:
                kept = json.loads(line)
            except ValueError:  # a kill tore it, or it is the empty line that begins each
                continue
            if kept["source"] == source:
                self.known[kept["mutant"]] = (kept["kind"], kept["said"])

    def add(self, mutant: Mutant, kind: str, said: str) -> None:
        """Keep a verdict."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            kept = {"mutant": str(mutant), "kind": kind, "said": said, "source": self.source}
            file.write(f"\n{json.dumps(kept)}")


def source() -> str:
    """Return a hash of the shaders and of what judges them."""
    return " ".join(build_cache.digest(ROOT / name) for name in ("metal_kernels", "tests/metal_kernels"))


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
    words = sys.argv[1:] or [""]
    every = all_mutants()
    chosen = [mutant for mutant in every if any(word in f"{mutant.kind}: {mutant}" for word in words)]
    counts: Counter[str] = Counter()
    workers: Queue[Worker] = Queue()
    verdicts = Verdicts(KEPT, source())

    def judged(mutant: Mutant) -> tuple[str, str]:
        if known := verdicts.known.get(str(mutant)):
            return known
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
                if str(mutant) not in verdicts.known:
                    verdicts.add(mutant, kind, said)
                print(f"{kind:<13} {mutant.file}:{mutant.line}: {mutant.what}\n              {said}", flush=True)
    if len(chosen) == len(every):
        KEPT.unlink(missing_ok=True)
    print(", ".join(f"{kind} {count}" for kind, count in counts.items()))
    stale = set(EQUIVALENT) - {str(mutant) for mutant in every}
    for description in sorted(stale):
        print(f"listed as equivalent, but no such mutant: {description}")
    sys.exit(bool(counts["MISSED"] or stale))


if __name__ == "__main__":
    main()
