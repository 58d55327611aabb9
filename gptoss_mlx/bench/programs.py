"""The programs that are measured, this runtime, mlx-lm and llama.cpp: how each is started, and what it loads."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gptoss_mlx.bench.peer import Peer

LLAMA_WORKER = Path(__file__).with_name("llama_worker.py")

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Threads that every program gets which takes a number."""


@dataclass(frozen=True)
class Program:
    """A program, the weights that it loads, and its own options. ``most_rows`` is how many sequences it decodes at once
    at most, None for any number. ``loads`` says whether it loads once, so that loading can be timed."""

    peer: Peer
    weights: Path
    options: Mapping[str, str | int | None] = field(default_factory=dict)
    most_rows: int | None = None
    loads: bool = True

    @property
    def name(self) -> str:
        return self.peer.name

    def load(self, rows: int = 1, positions: int = 4096) -> float:
        """Load the weights into the process that runs, and return the seconds. Raises PeerError."""
        return self.peer.load(self.weights, threads=THREADS, rows=rows, positions=positions, options=self.options)


def ours(name: str) -> Peer:
    """Return this runtime, started by the Python that runs now."""
    return Peer(name, [sys.executable, "-m", "gptoss_mlx.bench.worker"])


def mlx_lm(name: str) -> Peer:
    """Return mlx-lm, which extra ``compare`` installs beside this runtime."""
    return Peer(name, [sys.executable, "-m", "gptoss_mlx.bench.mlx_lm_worker"])


def llama_cpp(name: str, python: str) -> Peer:
    """Return llama.cpp, started by the Python of an environment that has llama_cpp."""
    return Peer(name, [python, str(LLAMA_WORKER)])


def llama_bench(name: str, program: str) -> Peer:
    """Return llama.cpp's own ``llama-bench``, which is started anew for each piece of work and loads each time."""
    return Peer(name, [sys.executable, "-m", "gptoss_mlx.bench.llama_bench_worker", program])
