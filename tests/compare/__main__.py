"""``make compare``: time ours beside llama.cpp and mlx-lm on the same random weights, two layers of 20b's shape.

Ours and llama.cpp have 8-bit dense weights: our q8, and ggml's Q8_0. Beside mlx-lm ours has bf16 weights, as mlx-lm has
them. Before that, llama.cpp's logits must be ours on a small model. Times on a CPU say nothing about a Mac.

Usage: python -m tests.compare LLAMA_PYTHON [--keep FOLDER]
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from convert import convert
from gptoss_mlx.bench.programs import THREADS, Program, llama_cpp, mlx_lm, ours
from gptoss_mlx.bench.works import Prefill
from gptoss_mlx.cli.progress import byte_progress
from gptoss_mlx.cli.signals import ended_by_signals
from gptoss_mlx.errors import GptOssError
from tests.compare.measures import VOCABULARY, Decoding, Turns, last_logits, measured
from tests.compare.report import LLAMA, MLX_BFLOAT16, MLX_FLOAT32, OURS_BF16, OURS_Q8, Group, missed, programs, times
from tests.compare.same_weights import BOUND, worst_difference
from tests.support.random_checkpoint import SHAPES, write_random_checkpoint

SIZES = SHAPES["20b"] | {"num_hidden_layers": 2}
FLOAT32 = {"dtype": "float32"}
CONSOLE = Console(width=130)


def side_by_side(programs: Sequence[Program], works: Sequence[Turns], scratch: Path) -> Group:
    """Measure programs that are all loaded at the same time, and print their times. Raises PeerError."""
    group = Group(programs[0].name)
    with ExitStack() as stack:
        peers = [stack.enter_context(program.peer) for program in programs]
        for program in programs:
            say(f"loading {program.name}")
            program.load(rows=8, positions=1024)
        for turns in works:
            say(f"{turns.work.label}, {' and '.join(peer.name for peer in peers)}")
            group.timings[turns.work.label] = measured(turns, peers)
        for peer in peers:
            group.logits[peer.name] = last_logits(peer, scratch)
            group.memory[peer.name] = peer.usage().memory
    CONSOLE.print(times(group, f"two layers of 20b, {THREADS} threads, medians"))
    return group


def weights(folder: Path) -> dict[str, Path]:
    """Write those weights that ``folder`` does not hold: a checkpoint, its two conversions, and a GGUF file."""
    made = {name: folder / name for name in ("checkpoint", "q8", "bf16", "gguf")}
    for name, layout in (("checkpoint", "hf"), ("gguf", "gguf")):
        if not made[name].exists():
            with byte_progress(f"Writing {name}") as progress:
                write_random_checkpoint(made[name], SIZES, layout, progress=progress)
    for dense in ("q8", "bf16"):
        if not made[dense].exists():
            with byte_progress(f"Converting to {dense}") as progress:
                convert(made["checkpoint"], made[dense], dense=dense, progress=progress)
    return made


def compare(llama_python: str, folder: Path) -> int:
    """Print all figures, and return 1 if a goal is missed. Raises PeerError and OSError."""
    apart = worst_difference(ours("gptoss-mac"), llama_cpp("llama.cpp", llama_python))
    say(f"a small model's logits are {apart:.1e} apart from llama.cpp's, both in float32")
    if apart > BOUND:
        say(f"these are not the same weights: {BOUND:.0e} is allowed")
        return 1
    made = weights(folder)
    beside_llama = side_by_side(
        (Program(ours(OURS_Q8), made["q8"]), Program(llama_cpp(LLAMA, llama_python), made["gguf"])),
        (
            Turns(Decoding(1), 30, warm_up=2),
            Turns(Decoding(8), 20, warm_up=2),
            Turns(Prefill(128, VOCABULARY), 8),
            Turns(Prefill(512, VOCABULARY), 5),
        ),
        folder / "logits",
    )
    beside_mlx = side_by_side(
        (
            Program(ours(OURS_BF16), made["bf16"], FLOAT32),
            Program(mlx_lm(MLX_FLOAT32), made["checkpoint"], FLOAT32),
            Program(mlx_lm(MLX_BFLOAT16), made["checkpoint"], {"dtype": "bfloat16"}),
        ),
        # mlx-lm takes minutes for 128 ids in bf16 on a CPU, and decoding has warmed up prefill.
        (Turns(Decoding(1, before=8), 8, warm_up=2), Turns(Prefill(128, VOCABULARY), 1, warm_up=0)),
        folder / "logits",
    )
    groups = (beside_llama, beside_mlx)
    CONSOLE.print(programs(groups))
    problems = missed(groups)
    for problem in problems:
        say(problem)
    return 1 if problems else 0


def say(line: str) -> None:
    print(f"compare: {line}", file=sys.stderr, flush=True)


@contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """Yield a temporary folder, or ``keep``, whose weights the next run uses again."""
    if keep is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep


def main() -> None:
    parser = argparse.ArgumentParser(prog="compare")
    parser.add_argument("llama_python", help="a Python that has llama_cpp")
    parser.add_argument("--keep", type=Path, help="folder to keep the weights in, 10 GB, for the next run")
    given = parser.parse_args()
    try:
        with work_folder(given.keep) as folder:
            sys.exit(compare(given.llama_python, folder))
    except (GptOssError, OSError) as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    ended_by_signals(main)
