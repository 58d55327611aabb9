"""Token ids in, token ids out. Knows nothing about text."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
