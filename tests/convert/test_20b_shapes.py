"""Convert two layers of the published shapes: experts keep every bit, and memory stays small. Takes 6 GB, minutes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.repack import blocks_from_words
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import TWO_LAYERS_OF_20B, hf_tensors
from tests.support.model_folders import array_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


# On Linux a child starts with its parent's peak, so a small process is put between it and this one.
LAUNCHER = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run(code: str, *args: object) -> int:
    """Run Python in a child process, and return its peak resident memory in bytes."""
    command = [sys.executable, "-c", LAUNCHER, code, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("20b") / "checkpoint"
    run(
        "import sys; from pathlib import Path; from tests.support.checkpoints import *\n"
        "write_checkpoint(Path(sys.argv[1]), TWO_LAYERS_OF_20B, shards=10)",
        folder,
    )
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize("dense", ["q8", "bf16"])
def test_expert_bytes_are_equal_and_peak_memory_is_under_1500_mb(checkpoint, tmp_path, dense):
    destination = tmp_path / "model"
    code = "import sys; from convert import convert; convert(sys.argv[1], sys.argv[2], dense=sys.argv[3])"
    peak = run(code, checkpoint, destination, dense)
    print(f"{dense}: peak memory {peak / 1e6:,.0f} MB")
    assert peak < 1.5e9

    model = ModelFolder.open(destination)
    compared = 0
    for name, _, bits in hf_tensors(TWO_LAYERS_OF_20B):
        if name.endswith(("_blocks", "_scales")):
            _, _, n, _, _, published = name.split(".")
            projection, _, kind = published.rpartition("_")
            stem = f"layers.{n}.experts.{projection.removesuffix('_proj')}"
            ours = array_of(model, f"{stem}.scales" if kind == "scales" else f"{stem}.weight")
            assert np.array_equal(ours if kind == "scales" else blocks_from_words(ours), bits), name
            compared += bits.nbytes
    assert compared == 2 * 32 * 3 * 2880 * 90 * 17
    for path in destination.iterdir():
        path.unlink()
