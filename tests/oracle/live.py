"""``make oracle``: compare our logits with transformers' in float32, and load our exports. Writes no file that stays.

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
from convert.export import export
from gptoss_mlx.model_folder import ModelFolder
from tests.oracle.cases import ALL_CASES, EXPORTED, Case, sampled_rows
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
    exported = load_export(case, oracle_python, folder) if case.name in EXPORTED else {}
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
            if case.name in EXPORTED:
                found.append((case.name, length, "by transformers, exported", relative_l2(exported[str(length)], want)))
    return found


def load_export(case: Case, oracle_python: str, folder: Path) -> dict[str, np.ndarray]:
    """Return the logits that transformers computes from the model's export, by length."""
    export(ModelFolder.open(folder / "model"), folder / "exported")
    script = [oracle_python, "-m", "tests.oracle.write_loaded_logits"]
    subprocess.run([*script, str(folder / "exported"), str(folder / "exported.npz"), case.name], check=True)
    with np.load(folder / "exported.npz") as logits:
        return dict(logits)


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
