"""gpt-oss on a Mac.

``import gptoss_mlx`` is cheap, because the names below import what they need when first used.
"""

TYPE_CHECKING = False  # typing's own is not imported, because that takes longer than this package should
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    import mlx.core as mx

    from gptoss_mlx import harmony
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.distributed.hosts import Backend
    from gptoss_mlx.engine.prefix_cache import PrefixCache
    from gptoss_mlx.errors import (
        CheckpointError,
        ConstraintError,
        ContextLengthError,
        CutOffError,
        EngineError,
        GptOssError,
        GrammarError,
        HarmonyError,
        HistoryError,
        HubError,
        KernelError,
        MemoryBudgetError,
        ModelFolderError,
        ModelNotInstalledError,
        NoAnswerError,
        NotConvertedError,
        RankError,
        SessionError,
        StorageError,
        UsageError,
    )
    from gptoss_mlx.events import Done, Text, Thought, ToolCall, ToolError, ToolResult
    from gptoss_mlx.harmony.messages import Effort
    from gptoss_mlx.runtime import Runtime
    from gptoss_mlx.tools.tool import Tool

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ConstraintError",
    "ContextLengthError",
    "Conversation",
    "CutOffError",
    "Done",
    "EngineError",
    "GptOssError",
    "GrammarError",
    "HarmonyError",
    "HistoryError",
    "HubError",
    "KernelError",
    "MemoryBudgetError",
    "ModelFolderError",
    "ModelNotInstalledError",
    "NoAnswerError",
    "NotConvertedError",
    "RankError",
    "Runtime",
    "SessionError",
    "StorageError",
    "Text",
    "Thought",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "UsageError",
    "__version__",
    "chat",
    "harmony",
    "load",
]


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
    distributed: "int | str | Path | None" = None,
    distributed_backend: "Backend" = "ring",
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
        distributed=distributed,
        distributed_backend=distributed_backend,
        progress=progress,
    )


def chat(
    model: "str | Path | Runtime",
    message: str,
    *,
    reasoning: "Effort" = "medium",
    instructions: str | None = None,
    tools: "Sequence[Tool | Callable[..., Any]]" = (),
    schema: "Any" = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
) -> str:
    """Return the model's answer to ``message``. A ``model`` that is no Runtime is loaded first: load it yourself, once,
    for several messages. The other arguments are those of Conversation and of ``Runtime.sampling``. Raises what these
    raise, NoAnswerError if there is no answer, or not all of one under a ``schema``, and CutOffError for one that was
    cut off."""
    from gptoss_mlx.answer import answer_to
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.runtime import Runtime

    runtime = model if isinstance(model, Runtime) else load(model)
    conversation = Conversation(
        runtime,
        reasoning=reasoning,
        instructions=instructions,
        tools=tools,
        schema=schema,
        sampling=runtime.sampling(temperature=temperature, seed=seed),
        max_tokens=max_tokens,
    )
    return answer_to(conversation, message)


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name == "harmony":
        return import_module("gptoss_mlx.harmony")
    if name in ("Conversation", "Runtime"):
        return getattr(import_module(f"gptoss_mlx.{name.lower()}"), name)
    if name in __all__:
        home = "errors" if name.endswith("Error") and name != "ToolError" else "events"
        return getattr(import_module(f"gptoss_mlx.{home}"), name)
    raise AttributeError(f"module 'gptoss_mlx' has no attribute '{name}'")
