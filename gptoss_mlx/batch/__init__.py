"""Many prompts from a file, their answers into another: what ``gptoss-mac batch`` does.

``source`` reads lines, ``answers`` keeps what is answered safe, ``run`` takes the one to the other through the engine.
Knows nothing of terminals.
"""

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
