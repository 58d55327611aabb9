"""Write a random checkpoint of any shape, with its tokenizer, for programs to be measured or compared on.

    python -m tests.support.random_checkpoint --shape 20b --layers 2 --layout gguf --out F

The same shape and seed give the same weights in each layout. At most one tensor is in memory at a time: 1.2 GB for the
published shapes. Nothing is left of a checkpoint that could not be finished.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptoss_mlx.cli.progress import byte_progress
from gptoss_mlx.cli.signals import ended_by_signals
from tests.support.checkpoints import DEFAULTS, PUBLISHED_IDS, SMALL, Progress, write_checkpoint
from tests.support.tokenizers import published_tokenizer_json, small_tokenizer_json, write_json

SHAPES = {
    "tiny": SMALL,
    "20b": {"num_hidden_layers": 24, "num_local_experts": 32},
    "120b": {"num_hidden_layers": 36, "num_local_experts": 128},
}


def write_random_checkpoint(
    out: Path,
    sizes: dict[str, Any],
    layout: str = "hf",
    *,
    seed: int = 0,
    exact: bool = False,
    shards: int = 1,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write folder ``out`` in layout ``hf`` or ``original``, or file ``out`` in layout ``gguf``.

    GGUF has Q8_0 for the matrices that are no experts, or with ``exact`` float32 for all. ``shards`` is the number of
    files of the other layouts. Raises FileExistsError if ``out`` exists.
    """
    with _complete(out) as unfinished:
        if layout == "gguf":
            from tests.support.gguf_checkpoint import write_gguf

            write_gguf(unfinished, sizes, tokenizer_of(sizes), seed=seed, exact=exact, progress=progress)
        else:
            write_checkpoint(unfinished, sizes, layout, shards, seed, progress)
            if layout == "hf":
                write_json(unfinished / "tokenizer.json", tokenizer_of(sizes))
    return out


def tokenizer_of(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer.json for a shape: the published one if its ids have rows, else a small one."""
    rows = (DEFAULTS | sizes)["vocab_size"]
    return small_tokenizer_json() if rows < PUBLISHED_IDS else published_tokenizer_json()


@contextmanager
def _complete(out: Path) -> Iterator[Path]:
    """Yield a path beside ``out`` to write to. It becomes ``out`` at the end, or is removed after an exception."""
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or write elsewhere")
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.rename(out)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)


def _size(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if name not in DEFAULTS | SMALL or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER with a size of config.json")
    return name, int(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="random_checkpoint", description="Write a random gpt-oss checkpoint.")
    parser.add_argument("--shape", choices=SHAPES, default="20b")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the shape has")
    parser.add_argument("--size", type=_size, action="append", default=[], metavar="NAME=N", help="any size of config")
    parser.add_argument("--layout", choices=("hf", "original", "gguf"), default="hf")
    parser.add_argument("--exact", action="store_true", help="all matrices in float32, in layout gguf")
    parser.add_argument("--shards", type=int, default=1, help="files of layouts hf and original")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder or .gguf file to write")
    given = parser.parse_args()
    sizes = SHAPES[given.shape] | dict(given.size)
    if given.layers is not None:
        sizes["num_hidden_layers"] = given.layers
    options = {"seed": given.seed, "exact": given.exact, "shards": given.shards}
    try:
        with byte_progress(f"Writing {given.out.name}") as progress:
            write_random_checkpoint(given.out, sizes, given.layout, **options, progress=progress)
    except OSError as error:
        sys.exit(f"random_checkpoint: {error}")


if __name__ == "__main__":
    ended_by_signals(main)
