"""``make oracle``: compare our logits with transformers' in float32. Writes no file that stays.

Runs in the main environment. The reference runs in the oracle's, whose python is the argument. They run one after the
other, so that only one 20b-shaped model is in memory.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from convert import convert
from tests.oracle.cases import ALL_CASES, Case, sampled_rows
from tests.support.checkpoints import write_checkpoint
from tests.support.measure import relative_l2, run_in_chunks

TOLERANCE = 1e-5


def compare(case: Case, oracle_python: str, folder: Path) -> list[tuple[str, int, str, float]]:
    """Yield (case, tokens, how they were read, relative L2 of the logits) for each length and way of reading."""
    checkpoint = write_checkpoint(folder / "checkpoint", case.sizes, seed=case.seed, shards=case.shards)
    script = [oracle_python, "-m", "tests.oracle.write_reference_logits"]
    subprocess.run([*script, str(checkpoint), str(folder / "reference.npz"), case.name], check=True)
    convert(checkpoint, folder / "model", dense="bf16")
    runtime = gptoss_mlx.load(folder / "model", dtype="float32")
    found = []
    with np.load(folder / "reference.npz") as reference:
        for length in case.lengths:
            tokens = case.tokens(length)
            rows = sampled_rows(length)
            want = reference[str(length)]
            ways = {"whole": length, "chunks of 128": 128}
            if length <= 300:
                ways["token by token"] = 1
            for way, chunk in ways.items():
                if chunk <= length:
                    error = relative_l2(run_in_chunks(runtime, tokens, chunk, rows), want)
                    found.append((case.name, length, way, error))
    return found


if __name__ == "__main__":
    table = Table(
        "model", "tokens", "read", "relative L2", "seconds", title="logits beside transformers float32, eager"
    )
    worst = 0.0
    wanted = sys.argv[2:] or [case.name for case in ALL_CASES]
    for case in [case for case in ALL_CASES if case.name in wanted]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for name, length, way, error in compare(case, sys.argv[1], Path(folder)):
                worst = max(worst, error)
                table.add_row(name, f"{length:,}", way, f"{error:.1e}", f"{time.monotonic() - start:.0f}")
    Console().print(table)
    sys.exit(0 if worst <= TOLERANCE else f"oracle: {worst:.1e} is over the tolerance of {TOLERANCE:.0e}")
