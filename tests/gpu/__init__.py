"""The shaders on an NVIDIA GPU: right under real parallelism, and how fast beside MLX's own kernels on one card.

Made here, without a GPU: ``scenes`` says what is launched on which arrays, ``recording`` keeps the dispatches of the
shaders' own checks, ``bundle`` puts their cubins, this package and a cut MLX into one folder. Run there, with Python
and numpy: ``driver`` is the GPU, ``replay`` and ``bench`` use it alone; ``on_mlx`` uses MLX's CUDA backend, where the
machine has the libraries that it needs. ``runner`` is what a user starts, and says what fits a lent card. ``dry``
stands in for the GPU here.

A bench for the shaders, no promise to users of NVIDIA cards.
"""
