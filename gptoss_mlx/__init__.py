"""gpt-oss on a Mac.

``import gptoss_mlx`` is cheap, because the names below import what they need when first used.
"""

TYPE_CHECKING = False  # typing's own is not imported, because that takes longer than this package should
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    import mlx.core as mx

    from gptoss_mlx import harmony
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.engine.prefix_cache import PrefixCache
    from gptoss_mlx.runtime import Runtime

__version__ = "0.1.0"
__all__ = ["Conversation", "Runtime", "__version__", "harmony", "load"]


def load(
    model: "str | Path",
    *,
    dtype: "str | mx.Dtype | None" = None,
    memory: int | str | None = None,
    context: int | None = None,
    prefix_disk: int | str | None = None,
    slots: int | None = None,
    trace_experts: "str | Path | None" = None,
    verify: bool = False,
    prefixes: "PrefixCache | None" = None,
    progress: "Callable[[int, int], None] | None" = None,
) -> "Runtime":
    """Load a model as ``gptoss_mlx.runtime.load`` does, with the same arguments. ``tiny`` is installed first. Raises
    that function's errors, and StorageError if ``tiny`` cannot be installed."""
    from gptoss_mlx import bundled
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.runtime import load

    if model == BUNDLED:
        bundled.install_tiny()
    return load(
        model,
        dtype=dtype,
        memory=memory,
        context=context,
        prefix_disk=prefix_disk,
        slots=slots,
        trace_experts=trace_experts,
        verify=verify,
        prefixes=prefixes,
        progress=progress,
    )


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name == "harmony":
        return import_module("gptoss_mlx.harmony")
    if name in ("Conversation", "Runtime"):
        return getattr(import_module(f"gptoss_mlx.{name.lower()}"), name)
    raise AttributeError(f"module 'gptoss_mlx' has no attribute '{name}'")
