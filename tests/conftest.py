"""Set before anything imports numpy or mlx, and inherited by the programs tests start."""

import os

# Two BLAS threads on small products wait for each other more than they work when the machine is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import metal_kernels  # noqa: F401  (loads a BLAS before a test imports mlx by itself)
