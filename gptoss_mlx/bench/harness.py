"""Time programs that take turns, and compare them: medians, ratios, and how far both scatter.

Programs do the same work one after the other, again and again, so that what else the machine does affects all alike.
Between two of them it is quiet for a moment, and what a program computes while another's turn lasts is noted: one whose
threads spin while it waits would slow the other. Load does not slow all programs alike, because some of them wait for
their slowest thread again and again. So where the system tells how long threads waited for a core, turns are repeated
until enough of them were calm. Knows no program and no model.
"""

import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gptoss_mlx.bench.peer import Peer

PAUSE = 0.1
"""Seconds between two programs. OpenBLAS's and OpenMP's threads spin for up to 0.03 s before they sleep."""

PRESSURE = Path("/proc/pressure/cpu")
"""Linux's count of the microseconds in which any thread waited for a core."""

CALM = 0.1
"""The most waiting, as a share of a turn, that leaves figures as they are on a quiet machine."""

Step = Callable[[Peer], float]
"""Let a program do one piece of work, and return its seconds."""


@dataclass(frozen=True)
class Turn:
    """The seconds each program took for the same work. ``waiting`` is the share of them in which some thread had to
    wait for a core, or None where the system does not tell. A program with more threads than cores waits too."""

    seconds: Mapping[str, float]
    waiting: float | None = None

    @property
    def calm(self) -> bool:
        """Whether hardly any thread waited, or nothing is known of it."""
        return self.waiting is None or self.waiting <= CALM


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of ``count`` numbers."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, numbers: Iterable[float]) -> "Spread":
        """Return the spread of at least one number."""
        ordered = sorted(numbers)
        if len(ordered) == 1:
            return cls(ordered[0], ordered[0], ordered[0], 1)
        low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(statistics.median(ordered), low, high, len(ordered))


@dataclass(frozen=True)
class Timing:
    """The turns that count. ``idle`` is how many cores each program kept busy while others had their turn. A program is
    not in it that had a single turn, or no other beside it."""

    turns: Sequence[Turn]
    idle: Mapping[str, float]

    def seconds(self, name: str) -> Spread:
        """Return the seconds of a program."""
        return Spread.of(turn.seconds[name] for turn in self.turns)

    def ratio(self, name: str, to: str) -> Spread:
        """Return how many times as long as program ``to`` a program took, turn by turn."""
        return Spread.of(turn.seconds[name] / turn.seconds[to] for turn in self.turns)

    def rate(self, name: str, tokens: int) -> Spread:
        """Return the tokens a second of a program that reads or writes ``tokens`` in a turn."""
        return Spread.of(tokens / turn.seconds[name] for turn in self.turns)

    @property
    def waiting(self) -> float | None:
        """The median of the turns' ``waiting``."""
        known = [turn.waiting for turn in self.turns if turn.waiting is not None]
        return statistics.median(known) if known else None


def take_turns(
    peers: list[Peer],
    step: Step,
    *,
    turns: int,
    warm_up: int = 1,
    least: int = 1,
    limit: float = float("inf"),
    ready: Callable[[Peer], object] = lambda peer: None,
    pause: float = PAUSE,
) -> Timing:
    """Let every program do ``step``, in turns, and return the timing of ``turns`` turns.

    ``warm_up`` turns come first and are not timed. ``ready`` comes right before each step, and is not timed. Turns are
    timed until ``turns`` of them were calm, or until ``limit`` seconds have passed and there are ``least``. The calmest
    count. Raises PeerError.
    """
    rest = _Rest(pause)
    begin = time.monotonic()
    taken: list[Turn] = []
    for number in itertools.count():
        turn = _turn(in_turn(peers, number), step, ready, rest)
        if number < warm_up:
            continue
        taken.append(turn)
        late = time.monotonic() - begin > limit and len(taken) >= least
        if late or sum(turn.calm for turn in taken) == turns:
            break
    taken.sort(key=lambda turn: turn.waiting or 0.0)
    return Timing(taken[:turns], rest.shares())


Started = TypeVar("Started", bound="Named")


class Named(Protocol):
    @property
    def name(self) -> str: ...


def take_turns_apart(
    programs: Sequence[Started], run: Callable[[Started], Mapping[str, float]], *, turns: int
) -> dict[str, Timing]:
    """Let programs that are not all in memory at a time take turns: ``run`` starts and ends one. Return the timings of
    the figures, in seconds and by name, that it returns. Raises PeerError."""
    taken: dict[str, list[Turn]] = {}
    for number in range(turns):
        found: dict[str, dict[str, float]] = {}
        for program in in_turn(programs, number):
            for figure, seconds in run(program).items():
                found.setdefault(figure, {})[program.name] = seconds
        for figure, each in found.items():
            taken.setdefault(figure, []).append(Turn(each))
    return {figure: Timing(each, {}) for figure, each in taken.items()}


def actions_in_turns(
    actions: Mapping[str, Callable[[], object]], *, turns: int, ready: Callable[[], object] = lambda: None
) -> Timing:
    """Let actions of this process take turns, after one that does not count. ``ready`` comes before each, untimed."""
    taken = []
    for number in range(turns + 1):
        seconds = {}
        for name in in_turn(list(actions), number):
            ready()
            begin = time.perf_counter()
            actions[name]()
            seconds[name] = time.perf_counter() - begin
        taken.append(Turn(seconds))
    return Timing(taken[1:], {})


def in_turn(programs: Sequence[Any], number: int) -> list[Any]:
    """Return the programs in the order of turn ``number``: each is first as often as the others."""
    first = number % len(programs)
    return [*programs[first:], *programs[:first]]


def _turn(peers: Sequence[Peer], step: Step, ready: Callable[[Peer], object], rest: "_Rest") -> Turn:
    seconds = {}
    waited = 0.0
    known = True
    for peer in peers:
        rest.ends(peer)
        ready(peer)
        before = _waited()
        seconds[peer.name] = step(peer)
        after = _waited()
        rest.begins(peer)
        if before is None or after is None:
            known = False
        else:
            waited += after - before
    return Turn(seconds, min(1.0, waited / sum(seconds.values())) if known else None)


class _Rest:
    """What programs compute between their turns, from ``pause`` seconds after their work on."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._since: dict[str, tuple[float, float]] = {}
        self._cpu: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def begins(self, peer: Peer) -> None:
        time.sleep(self._pause)
        cpu = peer.usage().cpu
        self._since[peer.name] = (cpu, time.perf_counter())

    def ends(self, peer: Peer) -> None:
        if peer.name in self._since:
            cpu, begin = self._since.pop(peer.name)
            if time.perf_counter() - begin < self._pause:
                return  # the last of a turn is the first of the next: no other has worked since
            self._seconds[peer.name] = self._seconds.get(peer.name, 0.0) + time.perf_counter() - begin
            self._cpu[peer.name] = self._cpu.get(peer.name, 0.0) + peer.usage().cpu - cpu

    def shares(self) -> dict[str, float]:
        return {name: self._cpu[name] / seconds for name, seconds in self._seconds.items() if seconds > 0}


def _waited() -> float | None:
    """Return for how many seconds of the machine's life some thread has waited for a core, or None if unknown."""
    try:
        found = re.search(r"^some .*total=(\d+)$", PRESSURE.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1e6 if found else None
