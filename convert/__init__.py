"""A checkpoint in, a model folder out. Knows files, never inference."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
from convert.conversion import Report, convert

__all__ = ["Report", "convert"]
