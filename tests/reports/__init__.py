"""Measurements, each a make target of its own. Nothing here is a test."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two threads wait for each other more than they work
import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported, for us and for whom we measure beside)
