"""``make oracle``: convert what transformers' own saver writes, and compare with transformers and the published form.

Runs in the main environment. transformers runs in the oracle's, whose python is the argument.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from convert import convert
from gptoss_mlx.model_folder import ModelFolder
from tests.oracle.cases import Case
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.fine_tunes import decode
from tests.support.measure import relative_l2
from tests.support.model_folders import experts_of

TOLERANCE = 1e-5
MOST_REWRITTEN = 1e-3
"""The share of blocks that may be written with another scale, which leaves their values. See ``convert.mxfp4``."""
CASE = Case("small", SMALL, (129,), seed=1)


def compare_experts(got: Path, want: Path) -> tuple[int, int, int]:
    """Return how many MXFP4 blocks differ in a byte, how many in a value, and how many there are."""
    ours, theirs = (experts_of(ModelFolder.open(folder)) for folder in (got, want))
    differ = wrong = total = 0
    for name, (blocks, scales) in theirs.items():
        unequal = (ours[name][0] != blocks).any(-1) | (ours[name][1] != scales)
        values = (decode(*ours[name]) != decode(blocks, scales)).reshape(*unequal.shape, 32).any(-1)
        differ += np.count_nonzero(unequal)
        wrong += np.count_nonzero(values)
        total += unequal.size
    return differ, wrong, total


def main(oracle_python: str, folder: Path) -> str | None:
    """Compare each form that is saved, print a table, and return what is wrong, or None."""
    tokens = CASE.tokens(CASE.lengths[0])
    checkpoint = write_checkpoint(folder / "checkpoint", CASE.sizes, seed=CASE.seed)
    published = convert(checkpoint, folder / "published", dense="bf16").destination
    table = Table("head", "dtype", "files", "relative L2", "experts", title="fine-tunes as transformers saves them")
    problem = None
    for head in ("untied", "tied"):
        for dtype in ("bfloat16", "float32"):
            saved, logits = folder / f"{head}-{dtype}", folder / "logits.npy"
            script = [oracle_python, "-m", "tests.oracle.save_fine_tune", str(checkpoint), str(saved), str(logits)]
            subprocess.run([*script, head, dtype, ",".join(map(str, tokens))], check=True)
            report = convert(saved, folder / f"{head}-{dtype}-model", dense="bf16")
            runtime = gptoss_mlx.load(report.destination, dtype="float32")
            error = relative_l2(np.array(runtime.logits([tokens]))[0], np.load(logits))
            differ, wrong, total = compare_experts(report.destination, published)
            files = len(list(saved.glob("*.safetensors")))
            blocks = f"{differ} of {total:,} blocks with another scale, {wrong} with other values"
            table.add_row(head, dtype, str(files), f"{error:.1e}", f"{report.experts}; {blocks}")
            if error > TOLERANCE or wrong or differ > MOST_REWRITTEN * total or report.losses or files < 2:
                problem = f"oracle: {saved.name} is not what transformers computes with"
    Console().print(table)
    return problem


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(sys.argv[1], Path(folder)))
