"""The decoder's operations: as shaders for the GPU, in a native library for CPUs (``cpu``) and in plain MLX
(``reference``). ``launch`` runs them.

Importing this package loads an OpenBLAS before mlx if Linux has one. Only plain MLX uses it. The Linux wheel of mlx
links the Netlib reference BLAS, and a library that is already loaded globally replaces it (30 times faster on a
128 x 2880 x 2880 product). So any package that imports mlx imports this one first.
"""

from metal_kernels.blas import preload_openblas

preload_openblas()
