"""``make goldens``: write the reference's logits at sampled positions, those of the bundled model in bfloat16 too, its
rotary frequencies and its config.

``make test`` compares them with ours.

Runs in the oracle environment and imports none of the packages under test. ``SHA256SUMS`` lists every golden file, so
that other changes to one are noticed.
"""

import copy
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from tests.oracle import reference, write_bf16_logits
from tests.oracle.cases import GOLDEN_CASES, ROPE_CASES, sampled_rows
from tests.support.checkpoints import SMALL, hf_config, write_checkpoint

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"


def write_sums() -> None:
    files = sorted(path for path in GOLDENS.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (GOLDENS / "SHA256SUMS").write_text("".join(lines))


def write_config_and_rope() -> None:
    rope = {}
    for name, parameters in ROPE_CASES.items():
        # transformers writes into the parameters that it is given
        frequencies, factor = reference.rotary(hf_config(SMALL) | {"rope_scaling": copy.deepcopy(parameters)})
        rope[name] = {"inverse_frequencies": frequencies, "attention_factor": factor}
    for file, value in (("rope.json", rope), ("transformers-config.json", reference.default_config())):
        (GOLDENS / file).write_text(json.dumps(value, indent=1) + "\n")
    print("rope and config")


if __name__ == "__main__":
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for case in GOLDEN_CASES:
        with tempfile.TemporaryDirectory() as folder:
            model = reference.load(write_checkpoint(Path(folder), case.sizes, seed=case.seed))
            rows = {str(n): reference.logits(model, case.tokens(n), sampled_rows(n)) for n in case.lengths}
            longest = max(case.lengths)
            traced = reference.trace(model, case.tokens(longest), sampled_rows(longest))
        np.savez(GOLDENS / f"logits-{case.name}.npz", **rows)
        np.savez(GOLDENS / f"trace-{case.name}.npz", **traced)
        print(f"{case.name}: {', '.join(f'{n} tokens, {len(r)} rows' for n, r in rows.items())}")
    write_bf16_logits.write(GOLDENS / "bf16-tiny.npz")
    write_config_and_rope()
    write_sums()
