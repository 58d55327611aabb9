"""What conversion keeps, how fast it is beside a plain copy, and how much memory it takes. ``make convert-report``.

The forms of one random checkpoint are written by programs that are not ours where there are such: ``gguf`` for GGUF. Of
mlx-lm's and transformers' forms the tests compare our writer with their own. Speed is measured on a checkpoint of 20b's
shape with fewer layers, in turns with a copy of the same files, both from a cold cache, both to the medium.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type

import gptoss_mlx
from convert import convert
from convert.verification import compare
from gptoss_mlx.model_folder import ModelFolder
from tests.support import fine_tunes
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.gguf_checkpoint import write_gguf
from tests.support.measure import relative_l2
from tests.support.model_folders import experts_of
from tests.support.random_checkpoint import SHAPES, tokenizer_of, write_random_checkpoint

SIZES = SMALL | {"num_hidden_layers": 2}
IDS = [[int(n) for n in np.random.default_rng(3).integers(0, SIZES["vocab_size"], 150)]]
BLOCK = 16 << 20

CONVERT = """
import sys
from convert import convert
convert(sys.argv[1], sys.argv[2])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def _gguf(**options: object) -> Callable[[Path], Path]:
    def write(place: Path) -> Path:
        place.mkdir()
        write_gguf(place / "m.gguf", SIZES, tokenizer_of(SIZES), dense=Type.BF16, **options)
        return place

    return write


FORMS: dict[str, Callable[[Path], Path]] = {
    "original/": lambda place: write_checkpoint(place, SIZES, "original"),
    "Hugging Face, 5 files": lambda place: write_checkpoint(place, SIZES, "hf", 5),
    "GGUF, llama.cpp": _gguf(),
    "GGUF, llama.cpp, parts": _gguf(tensors_in_part=13),
    "GGUF, ollama": _gguf(style="ollama"),
    "GGUF, first ollama": _gguf(style="ollama-first"),
    "mlx-lm": lambda place: fine_tunes.write(place, SIZES, fine_tunes.mlx_lm(SIZES)),
    "transformers, bf16 experts": lambda place: fine_tunes.write(place, SIZES, fine_tunes.full(SIZES)),
    "unsloth, split experts": lambda place: fine_tunes.write(place, SIZES, fine_tunes.split(SIZES)),
}


def forms(work: Path) -> bool:
    """Print a line for each form. Return whether each gives the experts and the logits of the Hugging Face route."""
    want = convert(write_checkpoint(work / "hf", SIZES), work / "hf-model", dense="bf16").destination
    experts, logits = experts_of(ModelFolder.open(want)), _logits(want)
    print(
        f"{'one random checkpoint as':32}{'blocks of MXFP4':>17}{'other bytes':>13}{'other values':>14}{'logits':>10}"
    )
    fine = True
    for name, write in FORMS.items():
        place = work / name.replace("/", "")
        source = write(place)
        got = convert(source, work / f"{place.name}-model", dense="bf16").destination
        compare(ModelFolder.open(got), source)
        blocks = rewritten = other = 0
        for tensor, (codes, scales) in experts_of(ModelFolder.open(got)).items():
            differ = (codes != experts[tensor][0]).any(-1) | (scales != experts[tensor][1])
            values = fine_tunes.decode(codes, scales) != fine_tunes.decode(*experts[tensor])
            blocks, rewritten, other = blocks + differ.size, rewritten + int(differ.sum()), other + int(values.sum())
        error = relative_l2(_logits(got), logits)
        in_full = "experts" in name
        fine &= other == 0 and error < 1e-5 and (in_full or rewritten == 0)
        print(f"{name:32}{blocks:17,}{rewritten:13,}{other:14,}{error:10.1e}")
    return fine


def _logits(folder: Path) -> np.ndarray:
    return np.array(gptoss_mlx.load(folder, dtype="float32").logits(IDS))


def speed(work: Path, layers: int, rounds: int) -> bool:
    """Print what each round measured. Return whether conversion reaches 60% of a copy's speed within 1.5 GB."""
    source = work / "20b"
    write_random_checkpoint(source, SHAPES["20b"] | {"num_hidden_layers": layers}, shards=4)
    nbytes = sum(path.stat().st_size for path in source.iterdir())
    print(f"\n20b's shape with {layers} layers, {nbytes / 1e9:.1f} GB, in turns from a cold cache:")
    ratios, peaks = [], []
    for _ in range(rounds):
        copying = _timed(source, lambda: _copy(source, work / "copy"))
        shutil.rmtree(work / "copy")
        done: list[str] = []
        converting = _timed(source, lambda done=done: done.append(_convert(source, work / "model")))
        shutil.rmtree(work / "model")
        ratios.append(copying / converting)
        peaks.append(int(done[0]) * 1024)
        print(
            f"  copy {nbytes / copying / 1e6:6.0f} MB/s   convert {nbytes / converting / 1e6:6.0f} MB/s   "
            f"{ratios[-1]:.2f} of it   peak {peaks[-1] / 1e6:.0f} MB",
            flush=True,
        )
    print(f"  median {statistics.median(ratios):.2f} (at least 0.60), peak {max(peaks) / 1e6:.0f} MB (at most 1,500)")
    return statistics.median(ratios) >= 0.6 and max(peaks) < 1.5e9


def _timed(source: Path, work: Callable[[], object]) -> float:
    os.sync()
    for path in source.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        with path.open("rb", buffering=0) as read, (target / path.name).open("wb", buffering=0) as write:
            while block := read.read(BLOCK):
                write.write(block)
            os.fsync(write.fileno())


def _convert(source: Path, target: Path) -> str:
    command = [sys.executable, "-c", CONVERT, str(source), str(target)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6, help="of 20b's shape, 0.48 GB each beside 2.3 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder on the disk to measure, by default where temporary files lie")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        fine = forms(Path(place))
        fine &= speed(Path(place), given.layers, given.rounds)
    sys.exit(0 if fine else "a figure is missed")


if __name__ == "__main__":
    main()
