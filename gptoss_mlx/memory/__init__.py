"""How much memory a model takes, and what of it fits: the plan, and what holds the process to it."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
