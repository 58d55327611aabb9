"""The programs that ``make compare`` measures, and the machine's threads that all of them get."""

import os
import sys
from pathlib import Path

from gptoss_mlx.bench.peer import Peer

HERE = Path(__file__).parent
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ours(name: str) -> Peer:
    """Return this runtime, started by the Python that runs now."""
    return Peer(name, [sys.executable, "-m", "gptoss_mlx.bench.worker"])


def mlx_lm(name: str) -> Peer:
    """Return mlx-lm, which extra ``compare`` installs beside this runtime."""
    return Peer(name, [sys.executable, "-m", "tests.compare.mlx_lm_worker"])


def llama_cpp(name: str, python: str) -> Peer:
    """Return llama.cpp, started by the Python of the environment that has llama_cpp."""
    return Peer(name, [python, str(HERE / "llama_worker.py")])
