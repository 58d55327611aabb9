"""A program to be measured, in a process of its own. Asks it for one piece of work at a time, and waits for the answer.

A question is a line of JSON on the program's standard input, an answer a line of JSON on its standard output:

    {"call": "load", "model": PATH, "threads": N, "rows": N, "positions": N, "options": {...}}  -> {"seconds": S}
    {"call": "prefill", "tokens": [[id, ...], ...], "logits": PATH or null, "timed": BOOL}      -> {"seconds": S}
    {"call": "decode", "tokens": [id, ...], "logits": PATH or null}                             -> {"seconds": S}
    {"call": "generate", "count": N}                                                            -> {"seconds": S}
    {"call": "usage"}                                                    -> {"cpu": SECONDS, "memory": BYTES}

``load`` loads a model for at most ``rows`` sequences of ``positions`` each. ``prefill`` forgets every sequence and
reads one for each list, all of one length. ``decode`` reads the next id of each. Both compute the logits of the last
position of each sequence, and write them to a path as float32 [sequences, vocabulary], outside the time that they
report. What is not ``timed`` only comes before something else, so a program that measures itself may leave it to that.
``generate`` follows a prefill: the program's own loop computes ``count`` steps for every sequence, each of which reads
what was drawn before it. ``usage`` is the CPU time and the most memory that was in use: the high-water mark of what was
resident, or of what MLX had on a GPU if that is more. An answer ``{"error": LINE}`` stands
for any other. The program ends when its input does. What it writes to standard error is its own.

Knows no program.
"""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from gptoss_mlx.errors import PeerError, one_line

END_SECONDS = 5.0
"""How long a program may take to end by itself after its input has ended."""


@dataclass(frozen=True)
class Usage:
    """What a process has used: seconds of CPU time, and the most bytes of memory."""

    cpu: float
    memory: int


@dataclass
class Peer:
    """A program called ``name`` in messages, started by ``command``. ``environment`` is added to this process's own.

    A context manager: the process runs inside the block, a new one each time. ``timeout`` is in seconds and for each
    answer. Every method raises PeerError, in one line, when the program reports an error, ends, answers nonsense, or
    does not answer in time. It is then killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _errors: IO[bytes] = field(init=False, repr=False)
    _received: bytes = field(default=b"", init=False, repr=False)

    def __enter__(self) -> "Peer":
        self._received = b""
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=os.environ | self.environment,
                bufsize=0,
            )
        except OSError as error:
            self._errors.close()
            raise PeerError(f"{self.name}: cannot be started ({one_line(error)})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def load(
        self,
        model: Path,
        *,
        threads: int,
        rows: int = 1,
        positions: int = 4096,
        options: Mapping[str, Any] | None = None,
    ) -> float:
        """Load a model, and return the seconds. ``options`` are the program's own."""
        given = {"threads": threads, "rows": rows, "positions": positions, "options": dict(options or {})}
        return self._seconds("load", model=str(model), **given)

    def prefill(self, tokens: Sequence[Sequence[int]], logits: Path | None = None, *, timed: bool = True) -> float:
        """Forget everything, read one sequence for each list of ids, all of one length, and return the seconds. Where
        they are not wanted (``timed``) they may be those of less."""
        rows = [list(row) for row in tokens]
        return self._seconds("prefill", tokens=rows, logits=logits and str(logits), timed=timed)

    def decode(self, tokens: Sequence[int], logits: Path | None = None) -> float:
        """Read the next id of each sequence, and return the seconds."""
        return self._seconds("decode", tokens=list(tokens), logits=logits and str(logits))

    def generate(self, count: int) -> float:
        """Let the program's own loop compute ``count`` steps for every sequence, and return the seconds."""
        return self._seconds("generate", count=count)

    def usage(self) -> Usage:
        """Return what the process has used until now."""
        answer = self._ask("usage")
        return Usage(self._number(answer, "cpu"), int(self._number(answer, "memory")))

    def _seconds(self, call: str, **fields: Any) -> float:
        return self._number(self._ask(call, **fields), "seconds")

    def _number(self, answer: dict[str, Any], name: str) -> float:
        value = answer.get(name)
        if isinstance(value, int | float) and value >= 0:
            return float(value)
        raise self._killed(f"answered without {name}")

    def _ask(self, call: str, **fields: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, **fields}).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        line = self._line(call)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._killed(f"answered {call} with {line[:60]!r}, which is no JSON object")
        if "error" in answer:
            raise self._killed(f"{call} failed ({' '.join(str(answer['error']).split())[:200]})")
        return answer

    def _line(self, call: str) -> bytes:
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._received:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._killed(f"has not answered {call} within {self.timeout:g} s")
            piece = os.read(output, 1 << 16)
            if not piece:
                raise self._ended()
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _killed(self, problem: str) -> PeerError:
        self._process.kill()
        return PeerError(f"{self.name}: {problem}")

    def _ended(self) -> PeerError:
        """Return the error of a process that has ended, with its exit code or signal and its last words."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return self._killed("has closed its output")
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return PeerError(f"{self.name}: {how}" + (f" ({said[-1][:200]})" if said else ""))
