"""Options that several commands share, and opening the model they name."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.harmony.messages import Effort
    from gptoss_mlx.runtime import Runtime
    from gptoss_mlx.sessions import Session


def as_text(param: typer.CallbackParam, value: str | None) -> str | None:
    """A callback for options and arguments that are said to the model. Raises UsageError for what is no text."""
    from gptoss_mlx.text_input import argument

    return None if value is None else argument(value, param.opts[0])


ReasoningChoice = Literal["low", "medium", "high"]
"""Harmony's ``Effort``, repeated because importing harmony is slow. mypy compares the two."""

MODEL_HELP = "An installed model (20b, 120b, tiny), or a model folder."
REASONING_HELP = "How long the model thinks before it answers."
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Reasoning = Annotated[ReasoningChoice, typer.Option(help=REASONING_HELP)]
System = Annotated[str | None, typer.Option(help="Instructions for the whole conversation.", callback=as_text)]
Temperature = Annotated[
    float | None, typer.Option(help="0 takes the likeliest token, 1 draws from the model as it is.", show_default="1")
]
MaxTokens = Annotated[int | None, typer.Option(help="Stop a reply after so many tokens.", show_default="no limit")]
Seed = Annotated[int | None, typer.Option(help="Repeat the same random draws.")]


def open_model(name: str) -> "Runtime":
    """Load a model; a bar on standard error where it takes long enough to be seen."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    import gptoss_mlx

    console = Console(stderr=True)
    columns = (TextColumn("Loading"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        return gptoss_mlx.load(name, progress=lambda done, total: progress.update(task, completed=done, total=total))


def check_values(temperature: float | None, max_tokens: int | None) -> None:
    """Refuse bad values before the long part, the loading."""
    from gptoss_mlx.engine.sampling import Sampling
    from gptoss_mlx.errors import UsageError

    Sampling(temperature=1.0 if temperature is None else temperature)
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}; it must be 1 or more")


def start_conversation(
    model: str,
    reasoning: "Effort",
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
) -> "Conversation":
    """Load the model and begin."""
    check_values(temperature, max_tokens)
    runtime = open_model(model)

    from gptoss_mlx.conversation import Conversation

    sampling = runtime.sampling(temperature=temperature, seed=seed)
    return Conversation(runtime, reasoning=reasoning, instructions=system, sampling=sampling, max_tokens=max_tokens)


def reopen_conversation(
    session: "Session", model: str, temperature: float | None, max_tokens: int | None, seed: int | None
) -> "tuple[Conversation, str | None]":
    """Load the model and go on with a session; with a note when it has to be read anew."""
    check_values(temperature, max_tokens)
    runtime = open_model(model)

    from gptoss_mlx.sessions import open_session

    sampling = runtime.sampling(temperature=temperature, seed=seed)
    return open_session(session, runtime, sampling=sampling, max_tokens=max_tokens)
