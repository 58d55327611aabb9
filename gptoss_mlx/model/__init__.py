"""The decoder."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
