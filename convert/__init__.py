"""A checkpoint in, a model folder out. Knows files, never inference."""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
from convert.conversion import ConversionReport, convert

__all__ = ["ConversionReport", "convert"]
