"""The shaders for NVIDIA GPUs: not a product, a second judge of them beside the emulator.

Metal is C++ with address spaces, so every shader, unchanged, compiles through a shim of the language. NVRTC, NVIDIA's
compiler in a library, needs no GPU: it tells how many registers a shader takes, and whether anything spills to memory.
Where there is a GPU, ``kernel`` runs the same cubins on MLX's CUDA backend. Nothing users install has this package.
``make .venv-cuda/.ready`` sets up NVRTC, and ``make .venv-cuda`` MLX's backend too.
"""
