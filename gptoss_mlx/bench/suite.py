"""What ``gptoss-mac bench`` measures of a model on this machine: the works that fit, beside which programs, and what is
recorded of both. Knows model folders and the machine; starts nothing.
"""

import importlib.util
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx

from gptoss_mlx import __version__
from gptoss_mlx.bench.measuring import Effort, LeftOut
from gptoss_mlx.bench.programs import THREADS, Program, llama_bench, llama_cpp, mlx_lm, ours
from gptoss_mlx.bench.report import Report
from gptoss_mlx.bench.works import Generation, Prefill, Work
from gptoss_mlx.errors import UsageError
from gptoss_mlx.machine import memory_speed, spendable_bytes, this_machine
from gptoss_mlx.memory.here import backend_here, plan_here
from gptoss_mlx.memory.plan import MemoryPlan, cache_bytes
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.traits import model_hash

OWN = "gptoss-mac"


@dataclass(frozen=True)
class Wanted:
    """The lengths of prompts, the depths of generation, and the numbers of sequences, all in tokens, and how many are
    written."""

    prompts: Sequence[int] = (128, 512, 2048, 8192)
    depths: Sequence[int] = (0, 2048, 8192)
    rows: Sequence[int] = (1, 4, 16)
    count: int = 128


QUICKLY = Wanted(prompts=(512,), depths=(0,), rows=(1, 4))


@dataclass(frozen=True)
class Suite:
    """The works that fit, those that do not, and the plan of the memory."""

    works: Sequence[Work]
    left_out: Sequence[LeftOut]
    plan: MemoryPlan


def suite(folder: ModelFolder, wanted: Wanted, memory: int | None) -> Suite:
    """Return the works that are ``wanted`` and fit in ``memory`` bytes, by default in what is free. Raises
    MemoryBudgetError."""
    plan = plan_here(folder.config, folder.dense, memory=memory)
    vocabulary = folder.config.vocab_size
    works: list[Work] = [Prefill(length, vocabulary) for length in wanted.prompts]
    if 1 in wanted.rows:
        works += [Generation(wanted.count, vocabulary, depth) for depth in wanted.depths]
    works += [Generation(wanted.count, vocabulary, 0, rows) for rows in wanted.rows if rows > 1]
    reasons = {work: _too_large(work, folder, plan) for work in works}
    fitting = [work for work, reason in reasons.items() if reason is None]
    return Suite(fitting, [LeftOut(work.label, reason) for work, reason in reasons.items() if reason], plan)


def _too_large(work: Work, folder: ModelFolder, plan: MemoryPlan) -> str | None:
    """Return why a piece of work does not fit the plan, or None."""
    if work.positions > plan.context:
        return f"it takes {work.positions:,} positions, and the context holds {plan.context:,}"
    dtype = mx.bfloat16 if plan.backend == "metal" else mx.float32
    needed = work.rows * cache_bytes(folder.config, work.positions, dtype)
    room = plan["caches"] + plan.room
    if needed > room:
        return f"its caches take {needed / 1e9:.2f} GB, and there is room for {room / 1e9:.2f} GB"
    return None


def own_program(folder: ModelFolder, memory: int | None) -> tuple[Program, str]:
    """Return this runtime on a model folder, and how it stores and computes."""
    dtype = "bfloat16" if backend_here() == "metal" else "float32"
    how = f"MXFP4 experts, dense weights in {folder.dense}, computed in {dtype} ({backend_here()})"
    return Program(ours(OWN), folder.path, {"memory": memory}), how


def beside_mlx_lm(checkpoint: Path) -> tuple[Program, str]:
    """Return mlx-lm on a checkpoint's folder, and how it stores and computes. Raises UsageError without mlx-lm."""
    if importlib.util.find_spec("mlx_lm") is None:
        raise UsageError("mlx-lm is not installed here; run: pip install 'gptoss-mac[compare]'")
    if not (checkpoint / "config.json").is_file():
        raise UsageError(f"{checkpoint}: no checkpoint that mlx-lm loads; give one in Hugging Face's layout")
    dtype = "bfloat16" if mx.metal.is_available() else "float32"
    how = f"version {version('mlx-lm')}, MXFP4 experts, dense weights in bf16, computed in {dtype}"
    return Program(mlx_lm("mlx-lm"), checkpoint, {"dtype": dtype}), how


def beside_llama_cpp(gguf: Path, python: str | None) -> tuple[Program, str]:
    """Return llama.cpp on a GGUF file, and how it is run: by llama-bench if that is on the PATH, or by the Python of an
    environment that has llama_cpp. Raises UsageError where there is neither."""
    if not gguf.is_file():
        raise UsageError(f"{gguf}: no file; give the GGUF file that llama.cpp shall load")
    if python is None and (found := shutil.which("llama-bench")):
        program = Program(llama_bench("llama.cpp", found), gguf, most_rows=1, loads=False)
        return program, f"llama-bench, {gguf.name}, {THREADS} threads, random tokens, no draw"
    if python is None:
        raise UsageError(
            "llama-bench is not on the PATH; install llama.cpp, or name a Python that has llama_cpp: --peer-python"
        )
    return Program(llama_cpp("llama.cpp", python), gguf), f"llama_cpp, {gguf.name}, {THREADS} threads, random tokens"


def never_together(programs: Sequence[Program]) -> bool:
    """Return whether the memory does not hold the weights of all programs at a time."""
    return len(programs) > 1 and sum(_size(program.weights) for program in programs) > spendable_bytes()


def _size(weights: Path) -> int:
    files = weights.rglob("*") if weights.is_dir() else [weights]
    return sum(file.stat().st_size for file in files if file.is_file())


def report_of(folder: ModelFolder, plan: MemoryPlan, programs: dict[str, str], effort: Effort) -> Report:
    """Return a report of which nothing has been measured. Neither paths nor names of users are in it."""
    backend = backend_here()
    speed = memory_speed(THREADS) if backend != "metal" else None
    known = asdict(this_machine()) | {"backend": backend, "memory_speed": speed}
    config = folder.config
    model = {
        "name": folder.path.resolve().name,
        "hash": model_hash(folder.path),
        "layers": config.num_hidden_layers,
        "experts": config.num_local_experts,
        "hidden": config.hidden_size,
        "vocabulary": config.vocab_size,
        "dense": folder.dense,
        "experts_in_memory": config.num_local_experts if plan.slots is None else plan.slots,
        "context": plan.context,
    }
    versions = {
        "gptoss-mac": __version__,
        "Python": platform.python_version(),
        **{name: found for name in ("mlx", "mlx-lm", "numpy") if (found := _version(name))},
    }
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(made, known, versions, model, programs, effort)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
