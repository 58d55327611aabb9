"""What runs on the GPU, each operation beside its twin in plain MLX.

Importing this package loads an OpenBLAS, where Linux has one, before mlx: the Linux wheel of mlx links the Netlib
reference BLAS, and a library already loaded globally takes its place (30 times faster on a 128 x 2880 x 2880 product).
Any package that imports mlx imports this one first.
"""

from metal_kernels.blas import preload_openblas

preload_openblas()
