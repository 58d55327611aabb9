"""What a run shows of a kernel, as plain data. Knows nothing of compilers."""

from dataclasses import dataclass, field
from enum import StrEnum


class FindingKind(StrEnum):
    """The classes of finding."""

    LINT = "lint"
    RACE = "race"
    UNINITIALISED = "uninitialised"
    OUT_OF_BOUNDS = "out of bounds"
    DIVERGENCE = "divergence"
    UNDEFINED = "undefined behaviour"
    LIMIT = "limit"
    UNWRITTEN = "unwritten output"


@dataclass(frozen=True)
class Place:
    """A place in a kernel's source. ``line`` is 0 if it is not known."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file or "(place not known)"


@dataclass(frozen=True)
class Finding:
    """One defect: its class, its place, what happened, how many times, and for a race the place of the other access."""

    kind: FindingKind
    place: Place
    message: str
    other: Place | None = None
    times: int = 1

    def __str__(self) -> str:
        text = f"{self.place}: {self.kind}: {self.message}"
        if self.other and self.other.line:
            what = "the other access is" if self.kind is FindingKind.RACE else "others are"
            text += f"; {what} at {self.other}"
        return text + (f" ({self.times} times)" if self.times > 1 else "")


@dataclass(frozen=True)
class BufferUse:
    """The traffic of one buffer. It is zero in fast mode, which does not count.

    ``bytes_issued`` counts every load as written; ``unique_bytes`` each byte once. ``lines`` counts distinct 128-byte
    lines per simdgroup and load, count mode only.
    """

    name: str
    nbytes: int
    loads: int
    bytes_issued: int
    unique_bytes: int
    lines: int
    stores: int
    bytes_stored: int
    unique_bytes_stored: int


@dataclass
class Report:
    """The result of one run. All of it is emulated; nothing was measured on a GPU.

    ``waits`` is how often lanes met at a simd operation or a barrier, or ended, with loads from buffers since they last
    did: the most of one simdgroup. Loads between two such places are one wait, in whatever loop they are.
    """

    kernel: str
    mode: str
    seconds: float = 0.0
    threads: int = 0
    threadgroups: int = 0
    threadgroup_barriers: int = 0
    simdgroup_barriers: int = 0
    simd_operations: int = 0
    threadgroup_memory: int = 0
    threadgroup_loads: int = 0
    threadgroup_bytes_read: int = 0
    threadgroup_stores: int = 0
    threadgroup_bytes_written: int = 0
    waits: int = 0
    buffers: dict[str, BufferUse] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    lines: frozenset[Place] = frozenset()  # all lines that have code; in cover mode only
    lines_reached: frozenset[Place] = frozenset()

    @property
    def lines_missed(self) -> list[Place]:
        """The lines with code that no thread reached, in order. In cover mode only."""
        return sorted(self.lines - self.lines_reached, key=lambda place: (place.file, place.line))

    @property
    def bytes_issued(self) -> int:
        """The bytes of all device loads as written, over all buffers."""
        return sum(use.bytes_issued for use in self.buffers.values())

    @property
    def unique_bytes(self) -> int:
        """The bytes of all buffers that were read at least once."""
        return sum(use.unique_bytes for use in self.buffers.values())

    def __str__(self) -> str:
        head = (
            f"{self.kernel} ({self.mode}, emulated): {self.threadgroups} threadgroups, {self.threads} threads, "
            f"{self.threadgroup_barriers} threadgroup and {self.simdgroup_barriers} simdgroup barriers, "
            f"{self.simd_operations} simd operations, {self.threadgroup_memory} bytes of threadgroup memory, "
            f"at most {self.waits} waits for loads"
        )
        rows = [
            f"  {use.name}: {use.loads} loads, {use.bytes_issued} bytes issued, {use.unique_bytes} unique, "
            f"{use.lines} lines; {use.stores} stores, {use.bytes_stored} bytes"
            for use in self.buffers.values()
            if use.loads or use.stores
        ]
        return "\n".join([head, *rows, *(f"  {finding}" for finding in self.findings)])
