"""gpt-oss on a Mac.

``import gptoss_mlx`` is cheap: the names below load what they need when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptoss_mlx import harmony
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.runtime import Runtime, load

__version__ = "0.1.0"
__all__ = ["Conversation", "Runtime", "__version__", "harmony", "load"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "harmony":
        return import_module("gptoss_mlx.harmony")
    if name == "Conversation":
        return import_module("gptoss_mlx.conversation").Conversation
    if name in ("Runtime", "load"):
        return getattr(import_module("gptoss_mlx.runtime"), name)
    raise AttributeError(f"module 'gptoss_mlx' has no attribute '{name}'")
