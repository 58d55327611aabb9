"""Options that several commands share, and the model or conversation they open."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.errors import NotConvertedError
    from gptoss_mlx.harmony.messages import Effort
    from gptoss_mlx.runtime import Runtime
    from gptoss_mlx.sessions import Session


def as_text(param: typer.CallbackParam, value: str | None) -> str | None:
    """Return the value of an option or argument as text for the model. Raises UsageError when it cannot be decoded."""
    from gptoss_mlx.text_input import argument

    return None if value is None else argument(value, param.opts[0])


ReasoningChoice = Literal["low", "medium", "high"]
"""Harmony's ``Effort``, repeated because importing harmony is slow. mypy compares the two."""

MODEL_HELP = "Installed model (20b, 120b, tiny) or model folder."
DEFAULT_MODEL = "the default model"
REASONING_HELP = "How long the model thinks before it answers."
Model = Annotated[str | None, typer.Option(help=MODEL_HELP, show_default=DEFAULT_MODEL)]
Reasoning = Annotated[ReasoningChoice, typer.Option(help=REASONING_HELP)]
System = Annotated[str | None, typer.Option(help="Instructions for the whole conversation.", callback=as_text)]
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


def open_model(
    name: str | None, yes: bool = False, *, memory: str | None = None, context: int | None = None
) -> "Runtime":
    """Load a model, None for the default one, with a progress bar if standard error is a terminal. Write there what is
    smaller than wanted.

    A checkpoint is converted first, and a published model that is not installed is downloaded, if the user agrees at a
    terminal or with ``yes``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    import gptoss_mlx
    from gptoss_mlx.errors import ModelNotInstalledError, NotConvertedError
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.installed import default_model, find_model
    from gptoss_mlx.published import published_name
    from gptoss_mlx.records import note_use

    name = default_model() if name is None else name
    if name != BUNDLED:
        try:
            find_model(name)
        except NotConvertedError as error:
            name = _convert_if_agreed(error, yes)
        except ModelNotInstalledError:
            if published_name(name) is None:
                raise
            name = _make(name, yes)
    console = Console(stderr=True)
    columns = (TextColumn("Loading"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        runtime = gptoss_mlx.load(
            name,
            memory=memory,
            context=context,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for notice in runtime.plan.notices:
        print(notice, file=sys.stderr)
    note_use(runtime.folder.path)
    return runtime


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


def check_values(temperature: float | None, max_tokens: int | None, memory: str | None, context: int | None) -> None:
    """Raise UsageError for values out of range. Call it before loading the model, because loading is slow."""
    from gptoss_mlx.budget import context_limit, memory_limit
    from gptoss_mlx.engine.sampling import Sampling
    from gptoss_mlx.errors import UsageError

    Sampling(temperature=1.0 if temperature is None else temperature)
    memory_limit(memory)
    context_limit(context)
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}; it must be 1 or more")


def start_conversation(
    model: str | None,
    reasoning: "Effort",
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    yes: bool = False,
    *,
    memory: str | None = None,
    context: int | None = None,
) -> "Conversation":
    """Load the model and return a new conversation with it. Raises UsageError for values out of range."""
    from gptoss_mlx.conversation import Conversation

    check_values(temperature, max_tokens, memory, context)
    runtime = open_model(model, yes, memory=memory, context=context)
    sampling = runtime.sampling(temperature=temperature, seed=seed)
    return Conversation(runtime, reasoning=reasoning, instructions=system, sampling=sampling, max_tokens=max_tokens)


def reopen_conversation(
    session: "Session",
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    yes: bool = False,
    *,
    memory: str | None = None,
    context: int | None = None,
) -> "tuple[Conversation, str | None]":
    """Load the model and return the session's conversation, and a notice if its cache cannot be used."""
    from gptoss_mlx.sessions import open_session

    check_values(temperature, max_tokens, memory, context)
    runtime = open_model(model, yes, memory=memory, context=context)
    sampling = runtime.sampling(temperature=temperature, seed=seed)
    return open_session(session, runtime, sampling=sampling, max_tokens=max_tokens)
