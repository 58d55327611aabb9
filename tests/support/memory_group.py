"""Run a program in a memory control group of its own, with a limit and without swap, and sample what it holds.

Needs Linux and the right to make groups, which root has. Takes version 1 or 2 of groups, whichever is mounted. The
group's own peak is no use: it counts the page cache too.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
EVERY = 0.02
"""Seconds between two samples."""


@dataclass(frozen=True)
class Ran:
    """What came of a program. ``anonymous`` are the most bytes in a sample. ``killed`` says that it ran out of
    memory."""

    output: str
    code: int
    anonymous: int
    samples: int
    killed: bool


@dataclass(frozen=True)
class _Version:
    """The names that a version of control groups has for a group's limit, its anonymous bytes and its kills."""

    root: Path
    limit: str
    anonymous: str
    kills: str


V1 = _Version(MOUNTED / "memory", "memory.limit_in_bytes", r"^total_rss (\d+)$", "memory.oom_control")
V2 = _Version(MOUNTED, "memory.max", r"^anon (\d+)$", "memory.events")


def run_limited(command: Sequence[str], limit: int | None) -> Ran:
    """Run a Python module's ``command`` in a group that may hold ``limit`` bytes, None for as many as there are.

    Raises OSError where no group can be made.
    """
    with _group(limit) as (version, group):
        # The program joins before it imports anything, so that all its memory is charged to the group.
        join = "import os, runpy, sys; open(sys.argv.pop(1), 'w').write(str(os.getpid())); "
        join += "sys.argv.pop(0); runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
        begin = [sys.executable, "-c", join, str(group / "cgroup.procs"), *command]
        process = subprocess.Popen(begin, stdout=subprocess.PIPE, text=True)
        most = [0, 0]
        done = threading.Event()

        def sample() -> None:
            while not done.wait(EVERY):
                most[0] = max(most[0], _number(group / "memory.stat", version.anonymous))
                most[1] += 1

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            output, _ = process.communicate()
        finally:
            done.set()
            sampler.join()
            process.kill()
            process.wait()
        killed = _number(group / version.kills, r"^oom_kill (\d+)$") > 0
        return Ran(output, process.returncode, most[0], most[1], killed)


@contextmanager
def _group(limit: int | None) -> Iterator[tuple[_Version, Path]]:
    version = V1 if V1.root.is_dir() else V2
    group = version.root / f"gptoss-mac-{os.getpid()}"
    group.mkdir()
    try:
        if limit is not None:
            (group / version.limit).write_text(str(limit))
        for name, value in (("memory.swappiness", "0"), ("memory.swap.max", "0")):
            if (group / name).exists():
                (group / name).write_text(value)
        yield version, group
    finally:
        group.rmdir()


def _number(file: Path, pattern: str) -> int:
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
