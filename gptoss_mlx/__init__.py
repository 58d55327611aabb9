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
    """Load an installed model by name, folder or Hub id. ``tiny``, the bundled one, is installed first.

    ``memory`` is what everything together may take: bytes, text such as "10GB", or "auto", the default, which is what
    the machine has free. Where that is too little for all experts, the others are read from disk when they are chosen.
    ``context`` is how many tokens a conversation shall hold; the default is as many as fit, up to the model's own. The
    runtime's ``plan`` says in bytes what fits, and its ``notices`` what is smaller than wanted. ``prefix_disk``, bytes
    or text such as "4GB", is what the keys and values that are kept on disk may take there, for this process and
    others. The default, "off", is to keep none.

    ``dtype`` is that of dense weights, keys and values, "float32" or "bfloat16". The default is bfloat16 on Metal and
    float32 on the CPU backend, where products run in float32 either way. ``verify`` first compares every byte of the
    weights with the manifest. ``progress`` is called with (bytes read, total).

    ``slots`` is how many experts a layer holds at once; the default is the plan's. ``trace_experts`` is a new file that
    gets what every layer chooses, in the form of ``prediction.expert_trace``. Every expert then has a slot if all fit,
    and the host waits for each step's choice. ``prefixes`` is a cache to share, which may be another model's too; the
    default is a new one of the plan's size.

    ``distributed`` divides the layers among processes: so many on this machine, or those of a file of hosts
    (``distributed.hosts``). ``memory`` is then what each may take. They are joined over TCP, or with the
    ``distributed_backend`` "jaccl" over Thunderbolt, once in the life of a process. The loss of one ends this process,
    with a message and exit code 14. Slots, traces and prefixes on disk are refused.

    Where shaders run, the first load on a machine compares them with plain MLX, which does the work of wrong ones from
    then on. A warning names them.

    Raises UsageError, ModelNotInstalledError, ModelFolderError, MemoryBudgetError, RankError for a process that does
    not start or is unlike this one, and StorageError if ``tiny`` cannot be installed or the trace cannot be written.
    """
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
    """Return the model's answer to ``message``, without its thought.

    A ``model`` that is no Runtime is loaded first, each time: load it yourself, once, for several messages. The other
    arguments are those of Conversation and of ``Runtime.sampling``. Raises what these raise, NoAnswerError if there is
    no answer, or not all of one under a ``schema``, and CutOffError for one that was cut off.
    """
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
