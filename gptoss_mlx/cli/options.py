"""Options that several commands share, and the model or conversation they open."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptoss_mlx.cli import completion

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.errors import NotConvertedError
    from gptoss_mlx.harmony.messages import Effort
    from gptoss_mlx.history import Kept
    from gptoss_mlx.link.client import AnyRuntime, RemoteRuntime
    from gptoss_mlx.runtime import Runtime


def as_text(param: typer.CallbackParam, value: str | None) -> str | None:
    """Return the value of an option or argument as text for the model. Raises UsageError when it cannot be decoded."""
    from gptoss_mlx.text_input import argument

    return None if value is None else argument(value, param.opts[0])


ReasoningChoice = Literal["low", "medium", "high"]
"""Harmony's ``Effort``, repeated because importing harmony is slow. mypy compares the two."""

MODEL_HELP = "Installed model (20b, 120b, tiny) or model folder."
DEFAULT_MODEL = "the default model"
REASONING_HELP = "How long the model thinks before it answers."
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help=MODEL_HELP, show_default=DEFAULT_MODEL, autocompletion=completion.models),
]
Reasoning = Annotated[ReasoningChoice, typer.Option(help=REASONING_HELP)]
System = Annotated[
    str | None, typer.Option("--system", "-s", help="Instructions for the whole conversation.", callback=as_text)
]
Continue = Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")]
Session = Annotated[
    str | None,
    typer.Option(
        help="Keep the conversation under this name, or go on with it.",
        metavar="NAME",
        callback=as_text,
        autocompletion=completion.sessions,
    ),
]
Temperature = Annotated[
    float | None, typer.Option(help="0 takes the likeliest token, 1 draws from the model unchanged.", show_default="1")
]
MaxTokens = Annotated[int | None, typer.Option(help="Stop a reply after this many tokens.", show_default="no limit")]
Yes = Annotated[bool, typer.Option("--yes", help="Download and convert a model that is not installed without asking.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the random draws. The same seed repeats a reply.")]

Memory = Annotated[
    str | None,
    typer.Option(help="What the model may take in all, such as 10GB.", metavar="SIZE", show_default="what is free"),
]
ContextTokens = Annotated[
    int | None,
    typer.Option("--context", help="Tokens that a conversation shall hold.", show_default="as many as fit"),
]
TraceExperts = Annotated[
    Path | None,
    typer.Option("--trace-experts", help="New file for the experts that each layer chooses, as JSON lines."),
]

PrefixDisk = Annotated[
    str,
    typer.Option(
        "--prefix-disk",
        help="What the model has read may take this much disk, to be read faster next time. off keeps nothing.",
        metavar="SIZE|off",
    ),
]
PREFIX_DISK = "4GB"
NoLog = Annotated[
    bool, typer.Option("--no-log", help="Do not keep what is said. `gptoss-mac logs` shows what is kept.")
]

OwnModel = Annotated[
    bool,
    typer.Option(
        "--own-model",
        help="Load the model even if a server on this machine has it. --memory, --context, --trace-experts and "
        "--prefix-disk do so too.",
    ),
]


def _hosts(value: str | None) -> str | None:
    """Return the whole path of a file of hosts: a server that is installed has another folder."""
    return value if value is None or value.isdecimal() else os.path.abspath(os.path.expanduser(value))


Distributed = Annotated[
    str | None,
    typer.Option(
        metavar="N|HOSTFILE",
        callback=_hosts,
        help="Divide the layers among N processes here, or the Macs of a JSON file. Loads the model even if a server "
        "has it, keeps no prefixes on disk, and --memory is then what each may take.",
    ),
]
DistributedBackend = Annotated[
    Literal["ring", "jaccl"],
    typer.Option(help="How Macs are joined: over TCP, or over Thunderbolt 5 by RDMA, which nobody has run."),
]


@dataclass(frozen=True)
class Loading:
    """Which model a command loads, None for the default one, and how: the options of that name."""

    model: str | None
    yes: bool = False
    memory: str | None = None
    context: int | None = None
    trace_experts: Path | None = None
    prefix_disk: str = PREFIX_DISK
    own_model: bool = False
    distributed: str | None = None
    distributed_backend: Literal["ring", "jaccl"] = "ring"
    warm: bool = False
    """Whether a reply is not asked for at once, so that there is time to warm up."""

    @property
    def own(self) -> bool:
        """Return whether the model must be loaded here, because the user says so or how."""
        loads = self.memory is not None or self.context is not None or self.prefix_disk != PREFIX_DISK
        return self.own_model or loads or self.trace_experts is not None or self.distributed is not None

    @property
    def kept_on_disk(self) -> str:
        """Return what prefixes may take on disk: nothing where the layers are divided, unless the user says so."""
        return "off" if self.distributed is not None and self.prefix_disk == PREFIX_DISK else self.prefix_disk


def open_model(loading: Loading) -> "AnyRuntime":
    """Return the model of a server that runs, or load it."""
    return (None if loading.own else in_server(loading.model)) or _load(loading)


def in_server(name: str | None) -> "RemoteRuntime | None":
    """Return the model ``name`` in a server of this machine, or None. Where the user chose none it is the one that the
    server has in memory."""
    from gptoss_mlx.link.client import RemoteRuntime
    from gptoss_mlx.link.connection import find_server, model_of

    connection = find_server()
    if connection is None:
        return None
    from gptoss_mlx.errors import GptOssError
    from gptoss_mlx.installed import chosen_model, find_model
    from gptoss_mlx.records import note_use
    from gptoss_mlx.traits import model_hash

    served = connection.models[0] if connection.models else None
    if chosen := name or chosen_model():
        try:
            served = model_of(connection, model_hash(find_model(chosen)))
        except (GptOssError, OSError):
            served = None  # loading says what is wrong
    if served is None:
        connection.close()
        return None
    note_use(served.folder)
    return RemoteRuntime(served, connection)


@contextmanager
def told_of_the_server() -> Iterator[None]:
    """Say, of a model that does not fit, that a server has one in memory."""
    from gptoss_mlx.errors import MemoryBudgetError
    from gptoss_mlx.link.connection import find_server

    try:
        yield
    except MemoryBudgetError as error:
        if (connection := find_server()) is None:
            raise
        connection.close()
        if connection.pid == os.getpid() or not connection.models:  # this is the server, which changes models
            raise
        name = connection.models[0].name
        raise MemoryBudgetError(
            f"{error}; a server has {name} in memory: end it, or use it, by `run`, `chat` or `batch` with --model "
            f"{name} and without --own-model, --memory and --context"
        ) from error


def _load(loading: Loading) -> "Runtime":
    """Load a model with a progress bar if standard error is a terminal. Write there what is
    smaller than wanted. The model is made first, as ``obtained`` does."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    import gptoss_mlx
    from gptoss_mlx.records import note_use

    name = obtained(loading.model, loading.yes)
    console = Console(stderr=True)
    columns = (TextColumn("Loading"), BarColumn(), DownloadColumn())
    quiet = not console.is_terminal
    with told_of_the_server(), Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=None)
        runtime = gptoss_mlx.load(
            name,
            memory=loading.memory,
            context=loading.context,
            trace_experts=loading.trace_experts,
            prefix_disk=loading.kept_on_disk,
            distributed=loading.distributed,
            distributed_backend=loading.distributed_backend,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for notice in runtime.plan.notices:
        print(notice, file=sys.stderr)
    if loading.warm and loading.trace_experts is None:
        runtime.warm_up()
    note_use(runtime.folder.path)
    return runtime


def obtained(name: str | None, yes: bool = False) -> str:
    """Return the name or path of a model that is installed, None for the default one.

    A checkpoint is converted first, and a model of the Hub that is not installed is downloaded, if the user agrees at a
    terminal or with ``yes``.
    """
    from gptoss_mlx.errors import ModelNotInstalledError, NotConvertedError
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.installed import default_model, find_model
    from gptoss_mlx.published import is_hub_id, published_name

    name = default_model() if name is None else name
    if name == BUNDLED:
        return name
    try:
        find_model(name)
    except NotConvertedError as error:
        return _convert_if_agreed(error, yes)
    except ModelNotInstalledError:
        if published_name(name) is None and not is_hub_id(name):
            raise
        return _make(name, yes)
    return name


def _convert_if_agreed(error: "NotConvertedError", yes: bool) -> str:
    """Convert the checkpoint and return the model's name. Raises ``error`` without a terminal or the user's consent."""
    from gptoss_mlx.cli.terminal import agreed
    from gptoss_mlx.errors import shown
    from gptoss_mlx.home import model_name

    folder = Path(error.folder)
    name = model_name(folder)
    if not yes and not agreed(f"{shown(str(folder))} is a checkpoint. Convert it now to {name}?"):
        raise error
    return _make(str(folder), yes)


def _make(source: str, yes: bool) -> str:
    """Convert a checkpoint, or download it. Return the model's name. Standard output is left to the answer."""
    from rich.filesize import decimal

    from gptoss_mlx.cli.awake import awake
    from gptoss_mlx.cli.convert import make_model
    from gptoss_mlx.errors import shown

    with awake(allow_sleep=False):
        report = make_model(source, yes=yes)
    lines = [f"{report.destination.name}: {decimal(report.bytes_written)} in {report.destination}", *report.losses]
    for line in lines:
        print(shown(line), file=sys.stderr)
    return report.destination.name


def close_prefixes(runtime: "AnyRuntime") -> None:
    """Write to disk what ``runtime`` has read, and say on standard error if that failed."""
    runtime.close()
    tell_notice(runtime)


def tell_notice(runtime: "AnyRuntime") -> None:
    """Say once on standard error why what is read is not kept on disk."""
    from gptoss_mlx.errors import shown

    if notice := runtime.notice():
        print(shown(notice), file=sys.stderr)


def check_values(temperature: float | None, max_tokens: int | None, loading: Loading) -> None:
    """Raise UsageError for values out of range. Call it before loading the model, because loading is slow."""
    from gptoss_mlx.errors import UsageError
    from gptoss_mlx.limits import context_limit, disk_limit, memory_limit
    from gptoss_mlx.sampling import Sampling

    Sampling(temperature=1.0 if temperature is None else temperature)
    memory_limit(loading.memory)
    context_limit(loading.context)
    disk_limit(loading.prefix_disk)
    if loading.distributed is not None:
        from gptoss_mlx.distributed.hosts import read_hosts

        read_hosts(loading.distributed, loading.distributed_backend)
    elif loading.distributed_backend != "ring":
        raise UsageError("--distributed-backend says how Macs are joined; give --distributed HOSTFILE, too")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}; it must be 1 or more")


def open_conversation(
    kept: "Kept | None",
    loading: Loading,
    reasoning: "Effort | None",
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    **held: Any,
) -> "Conversation":
    """Load the model and return the ``kept`` conversation, or a new one. What is None is as it was kept, or as usual.
    ``held`` are further arguments of Conversation. Raises UsageError for values out of range."""
    from gptoss_mlx.conversation import Conversation

    check_values(temperature, max_tokens, loading)
    if temperature is None and kept is not None:
        temperature = kept.temperature
    runtime = open_model(loading)
    sampling = runtime.sampling(temperature=temperature, seed=seed)
    if kept is None:
        return Conversation(
            runtime,
            reasoning=reasoning or "medium",
            instructions=system,
            sampling=sampling,
            max_tokens=max_tokens,
            **held,
        )
    from gptoss_mlx.sessions import reopened

    conversation = reopened(kept, runtime, sampling=sampling, max_tokens=max_tokens, **held)
    conversation.reasoning = reasoning or conversation.reasoning
    conversation.instructions = conversation.instructions if system is None else system
    return conversation
