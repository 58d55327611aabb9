"""Kill or stop one rank of a batch at a random time, and see how all of it ends. Linux only: it looks into /proc.

Every process that the batch starts inherits a variable of its own, by which it is found.
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TAG = "GPTOSS_MAC_TEST_TAG"
FOLLOWER = "gptoss_mlx.distributed.follower"
LIMIT = 10.0
"""Seconds in which all ranks are to end."""


@dataclass(frozen=True)
class Ended:
    """How a batch ended after a rank got ``signal``: rank 0 or another, ``after`` so many seconds. ``seconds`` is how
    long it took until no process was left, None if some were. ``said`` is standard error."""

    signal: int
    rank_0: bool
    after: float
    seconds: float | None
    code: int
    said: str

    @property
    def fine(self) -> bool:
        return self.seconds is not None and self.seconds <= LIMIT and self.code != 0

    def __str__(self) -> str:
        what = (
            f"{'rank 0' if self.rank_0 else 'another'} got {signal.Signals(self.signal).name} after {self.after:.1f} s"
        )
        took = "some processes were left" if self.seconds is None else f"all ended in {self.seconds:.1f} s"
        last = next((line for line in reversed(self.said.splitlines()) if line.startswith("gptoss-mac:")), "no message")
        return f"{what}: {took}, exit code {self.code}; {last}"


def lose(folder: Path, ranks: int, number: int, after: float | None, rank_0: bool | None = None) -> Ended:
    """Start a batch on so many ranks, send one of them the signal ``number``, and wait. Which one is drawn, unless
    ``rank_0`` says it. It is sent ``after`` so many seconds from when there are as many processes, or for None once an
    answer is written."""
    tag = secrets.token_hex(8)
    lines = folder / f"{tag}.txt"
    lines.write_text("".join(f"What is {n} + {n + 1}?\n" for n in range(3000)))
    command = [sys.executable, "-m", "gptoss_mlx.cli", "batch", lines, "--model", "tiny", "--distributed", str(ranks)]
    with (folder / f"{tag}.said").open("w+b") as said:
        batch = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {TAG: tag},
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background has it ignored
        )
        begun = time.monotonic()
        while len(found := _followers(tag)) < ranks - 1:
            assert batch.poll() is None, (folder / f"{tag}.said").read_text()
            time.sleep(0.02)
        answers = lines.with_suffix(".answers.jsonl")
        while after is None and not (answers.exists() and answers.stat().st_size):
            assert batch.poll() is None, (folder / f"{tag}.said").read_text()
            time.sleep(0.02)
        time.sleep(after or 0)
        hit = batch.pid if rank_0 or (rank_0 is None and random.random() < 1 / ranks) else random.choice(found)
        late = time.monotonic() - begun
        os.kill(hit, number)
        struck = time.monotonic()
        while (left := _tagged(tag)) and time.monotonic() - struck < 2 * LIMIT:
            batch.poll()  # so that it does not stay as a zombie
            time.sleep(0.02)
        seconds = None if left else time.monotonic() - struck
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        code = batch.wait()
        said.seek(0)
        return Ended(number, hit == batch.pid, late, seconds, code, said.read().decode(errors="replace"))


def _tagged(tag: str) -> list[int]:
    """Return the processes that inherited ``tag`` and run."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{TAG}={tag}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _followers(tag: str) -> list[int]:
    found = []
    for pid in _tagged(tag):
        try:
            if FOLLOWER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found
