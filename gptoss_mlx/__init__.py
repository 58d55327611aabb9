"""gpt-oss on a Mac.

``import gptoss_mlx`` is cheap: the names below load what they need when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_mlx import harmony

__version__ = "0.1.0"
__all__ = ["__version__", "harmony"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "harmony":
        return import_module("gptoss_mlx.harmony")
    raise AttributeError(f"module 'gptoss_mlx' has no attribute '{name}'")
