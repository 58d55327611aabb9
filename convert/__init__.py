"""Convert a published checkpoint into a model folder. Knows files, not inference."""

import metal_kernels  # noqa: F401  (it loads a BLAS, which must happen before mlx is imported)
from convert.conversion import Report, convert

__all__ = ["Report", "convert"]
