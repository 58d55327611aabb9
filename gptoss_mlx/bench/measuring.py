"""Measure programs at pieces of work, by the harness, each in a process of its own that is started for the purpose.

Where the memory holds only one program at a time, each turn starts its program anew. Knows no model and no terminal.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from gptoss_mlx.bench.harness import Timing, take_turns, take_turns_apart
from gptoss_mlx.bench.programs import Program
from gptoss_mlx.bench.works import Generation, Prefill, Work
from gptoss_mlx.errors import PeerError

FIRST = "first token"

FIRST_PROMPT = 128
"""Ids of the prompt before the first token."""


@dataclass(frozen=True)
class Effort:
    """How much is measured: the ``turns`` of each piece of work, of which there are ``least`` after ``limit`` seconds
    on a machine that is busy, ``warm_up`` turns before them, and the most seconds of rest after it. Work is left out
    whose prompts would take a program more than ``longest`` seconds to read."""

    turns: int = 5
    least: int = 3
    warm_up: int = 1
    limit: float = 20.0
    longest: float = 45.0
    cool_down: float = 30.0

    def of(self, turns: int) -> "Effort":
        """Return the effort of so many turns, with as much time for each."""
        return replace(self, turns=turns, least=min(turns, self.least), limit=self.limit * turns / self.turns)


QUICK = Effort(turns=3, least=3, limit=3.0, longest=10.0, cool_down=0.0)


@dataclass(frozen=True)
class Measured:
    """What programs took for a piece of work. ``tokens`` are those of a turn, 0 where its seconds are what counts.
    ``memory`` are the most bytes that each had in use."""

    label: str
    tokens: int
    timing: Timing
    memory: Mapping[str, int]
    rows: int = 1
    depth: int = 0

    def __contains__(self, name: str) -> bool:
        """Return whether the program of that name was measured."""
        return name in self.memory


@dataclass(frozen=True)
class LeftOut:
    """A piece of work that was not measured, and why."""

    label: str
    reason: str


def measurements(
    programs: Sequence[Program], works: Sequence[Work], effort: Effort, *, vocabulary: int, apart: bool = False
) -> Iterator[Measured | LeftOut]:
    """Yield what comes of starting, and of each of ``works``, as it is known. After each it is quiet for as long as it
    took, at most ``effort.cool_down`` seconds, so that a chip may cool. ``apart``: never two programs in memory.

    What a program cannot do is left out, for that program. Raises PeerError where our own, the first, fails.
    """
    begin = time.monotonic()
    yield from _started([program for program in programs if program.loads], effort, vocabulary)
    reading: dict[str, float] = {}  # seconds that a program took for each id of the last prompt
    for work in works:
        reasons = {program.name: _reason_against(program, work, reading, effort) for program in programs}
        able = [program for program in programs if reasons[program.name] is None]
        yield from (LeftOut(work.label, reason) for reason in reasons.values() if reason is not None)
        if not able:
            continue
        time.sleep(min(effort.cool_down, time.monotonic() - begin))
        begin = time.monotonic()
        try:
            found = _measured(able, work, effort, apart)
        except PeerError as error:
            own = programs[0]
            if str(error).startswith(f"{own.name}: "):
                raise
            yield LeftOut(work.label, str(error))
            if own not in able:
                continue
            found = _measured([own], work, effort, apart)
        if isinstance(work, Prefill):
            reading |= {name: found.timing.seconds(name).median / work.length for name in found.memory}
        yield found


def _reason_against(program: Program, work: Work, reading: Mapping[str, float], effort: Effort) -> str | None:
    """Return why a program is not measured at a piece of work, or None."""
    if program.most_rows is not None and work.rows > program.most_rows:
        return f"{program.name} decodes {program.most_rows} sequence at a time"
    prompt = work.length if isinstance(work, Prefill) else work.depth * work.rows
    seconds = prompt * reading.get(program.name, 0.0)
    if seconds > effort.longest:
        return f"{program.name} would read {prompt:,} tokens for {seconds:.0f} s or more before each turn"
    return None


def _measured(programs: Sequence[Program], work: Work, effort: Effort, apart: bool) -> Measured:
    if apart and len(programs) > 1:
        timing, memory = _apart(programs, work, effort)
    else:
        timing, memory = _together(programs, work, effort)
    return Measured(work.label, work.tokens, timing, memory, work.rows, work.depth)


def _together(programs: Sequence[Program], work: Work, effort: Effort) -> tuple[Timing, dict[str, int]]:
    with ExitStack() as stack:
        for program in programs:
            stack.enter_context(program.peer)
            program.load(work.rows, work.positions)
        peers = [program.peer for program in programs]
        timing = take_turns(
            *(peers, work.step),
            turns=effort.turns,
            warm_up=effort.warm_up,
            least=effort.least,
            limit=effort.limit,
            ready=work.ready,
        )
        return timing, {peer.name: peer.usage().memory for peer in peers}


def _apart(programs: Sequence[Program], work: Work, effort: Effort) -> tuple[Timing, dict[str, int]]:
    memory: dict[str, int] = {}

    def run(program: Program) -> dict[str, float]:
        with program.peer as peer:
            program.load(work.rows, work.positions)
            for _ in range(effort.warm_up + 1):
                work.ready(peer)
                seconds = work.step(peer)
            memory[program.name] = max(memory.get(program.name, 0), peer.usage().memory)
        return {work.label: seconds}

    timings = take_turns_apart(programs, run, turns=effort.least)
    return timings[work.label], memory


def _started(programs: Sequence[Program], effort: Effort, vocabulary: int) -> Iterator[Measured]:
    """Yield the seconds from a program's start until its model is loaded, and from there to the first token of the
    first reply."""
    prompt = Prefill(FIRST_PROMPT, vocabulary)
    memory: dict[str, int] = {}

    def run(program: Program) -> dict[str, float]:
        begin = time.perf_counter()
        with program.peer as peer:
            program.load(1, FIRST_PROMPT + Generation(1, vocabulary).positions)
            loaded = time.perf_counter() - begin
            first = prompt.step(peer) + peer.generate(1)
            memory[program.name] = max(memory.get(program.name, 0), peer.usage().memory)
        return {"load": loaded, FIRST: first}

    for label, timing in take_turns_apart(programs, run, turns=effort.least).items():
        yield Measured(label, 0, timing, memory, depth=FIRST_PROMPT if label == FIRST else 0)
