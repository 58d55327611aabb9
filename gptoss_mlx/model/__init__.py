"""The decoder: its weights, its cache and the order of its operations."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
