"""Generation from token ids to token ids. Knows nothing about text."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
