"""``make compare-full``: all 24 layers of 20b once, with random weights, through ``gptoss-mac run`` and llama.cpp.

The two run one after the other on the same cores, because the memory of both at once would not be there. Only one of
them has its weights on disk at a time: 13 GB, and 27 GB while ours are converted. Nothing is kept.

Usage: python -m tests.compare.full LLAMA_PYTHON [--layers N]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptoss_mlx.bench.programs import THREADS, llama_cpp
from gptoss_mlx.bench.works import random_ids
from gptoss_mlx.cli.signals import ended_by_signals
from gptoss_mlx.errors import CutOffError, GptOssError, NoAnswerError, PeerError
from tests.compare.measures import VOCABULARY
from tests.compare.report import LLAMA

PROMPT = "Write a long story about a lighthouse keeper who finds a letter in a bottle. " * 8
REPLY = 32
"""Ids to generate. Random weights hardly ever draw an id that ends a reply."""

DISK = 30 << 30
"""Bytes that must be free: a checkpoint and its conversion."""


@dataclass(frozen=True)
class Run:
    """One program's run: ids read, seconds to load the model and to read them, seconds for each further id, and the
    most bytes that were resident."""

    name: str
    prompt: int
    first: float
    each: float
    memory: int


def ours(folder: Path, layers: int) -> Run:
    """Convert a random checkpoint, and answer one prompt with the command line. Raises PeerError."""
    checkpoint = folder / "checkpoint"
    model = folder / "model"
    command("tests.support.random_checkpoint", "--layers", layers, "--shards", 3, "--out", checkpoint)
    command("gptoss_mlx.cli", "convert", checkpoint, "--out", model)
    shutil.rmtree(checkpoint)
    words = ("run", "--model", model, "--temperature", "0", "--max-tokens", REPLY, "--json", PROMPT)
    begin = time.perf_counter()
    printed, memory = command("gptoss_mlx.cli", *words, allowed=(0, NoAnswerError.exit_code, CutOffError.exit_code))
    seconds = time.perf_counter() - begin
    shutil.rmtree(model)
    usage = json.loads(printed)["usage"]
    each = 1 / usage["tokens_per_second"]
    first = seconds - each * (usage["completion_tokens"] - 1)
    return Run("gptoss-mac run, q8", usage["prompt_tokens"], first, each, memory)


def llama(folder: Path, layers: int, python: str, prompt: int) -> Run:
    """Load the same weights as GGUF, read as many ids as ours did, and decode as many. Raises PeerError."""
    gguf = folder / "model.gguf"
    command("tests.support.random_checkpoint", "--layers", layers, "--layout", "gguf", "--out", gguf)
    begin = time.perf_counter()
    with llama_cpp(LLAMA, python) as peer:
        peer.load(gguf, threads=THREADS)
        peer.prefill([random_ids(0, prompt, VOCABULARY)])
        first = time.perf_counter() - begin
        each = statistics.median(peer.decode([id]) for id in random_ids(1, REPLY - 1, VOCABULARY))
        memory = peer.usage().memory
    gguf.unlink()
    return Run(LLAMA, prompt, first, each, memory)


def command(module: str, *words: object, allowed: Sequence[int] = (0,)) -> tuple[bytes, int]:
    """Run one of our commands. Return its standard output, and the most bytes that were resident.

    Weights are written by processes of their own, because on Linux a process's high-water mark begins with its
    parent's. Raises PeerError for an exit code that is not ``allowed``.
    """
    line = [sys.executable, "-m", module, *map(str, words)]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        printed = running.stdout.read()
        _, status, use = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode not in allowed:
        raise PeerError(f"{module} {words[0]} ended with exit code {running.returncode}")
    return printed, use.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare-full")
    parser.add_argument("llama_python", help="a Python that has llama_cpp")
    parser.add_argument("--layers", type=int, default=24, help="fewer than 20b has, to try this out")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if shutil.disk_usage(folder).free < DISK:
                sys.exit(f"compare-full: {folder} has less than {DISK >> 30} GB free; set TMPDIR to another place")
            own = ours(folder, given.layers)
            runs = (own, llama(folder, given.layers, given.llama_python, own.prompt))
    except (GptOssError, OSError) as error:
        sys.exit(f"compare-full: {error}")
    table = Table("program", "prompt", "load and read, s", "each id, s", "ids a second", "resident at most")
    table.title = f"20b, {given.layers} layers, {THREADS} threads, one run"
    for run in runs:
        figures = (f"{run.first:.1f}", f"{run.each:.3f}", f"{1 / run.each:.2f}", f"{run.memory / 1e9:.2f} GB")
        table.add_row(run.name, f"{run.prompt} ids", *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    ended_by_signals(main)
