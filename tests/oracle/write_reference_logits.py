"""Run in the oracle environment: ``CHECKPOINT OUT.npz CASE`` writes the reference's sampled logits for a case."""

import sys
from pathlib import Path

import numpy as np

from tests.oracle import reference
from tests.oracle.cases import ALL_CASES, sampled_rows

if __name__ == "__main__":
    checkpoint, out, name = sys.argv[1:]
    case = next(case for case in ALL_CASES if case.name == name)
    model = reference.load(Path(checkpoint))
    np.savez(out, **{str(n): reference.logits(model, case.tokens(n), sampled_rows(n)) for n in case.lengths})
