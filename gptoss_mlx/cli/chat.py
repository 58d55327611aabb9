"""``gptoss-mac chat``: a conversation in the terminal, with the model's thought visible."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptoss_mlx.cli import completion, options
from gptoss_mlx.cli import tools as offered
from gptoss_mlx.errors import SessionError, UsageError
from gptoss_mlx.text_input import LineReader

if TYPE_CHECKING:
    from gptoss_mlx.cli.chatting import Chat

ThinkingChoice = Literal["show", "fold", "hide"]
"""The screen's ``Thinking``, repeated because importing it is slow."""


def chat(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=options.MODEL_HELP,
            show_default=f"the session's, or {options.DEFAULT_MODEL}",
            autocompletion=completion.models,
        ),
    ] = None,
    reasoning: Annotated[
        options.ReasoningChoice | None,
        typer.Option(help=options.REASONING_HELP, show_default="the session's, or medium"),
    ] = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    session: options.Session = None,
    last: options.Continue = False,
    no_log: options.NoLog = False,
    thinking: Annotated[
        ThinkingChoice | None,
        typer.Option(
            help="Show the thought, fold it to its last lines until the answer begins, or hide it.",
            show_default="fold, or show where standard output is no terminal",
        ),
    ] = None,
    tools: offered.Tools = None,
    mcp: offered.Mcp = None,
    allow_tools: offered.AllowTools = False,
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    trace_experts: options.TraceExperts = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    own_model: options.OwnModel = False,
    yes: options.Yes = False,
) -> None:
    """Chat with a model. Its thought is shown before the answer. Type /help for the commands."""
    from rich.console import Console

    from gptoss_mlx.cli.keeping import Keeper, open_history, tell
    from gptoss_mlx.sessions import check_name

    if session is not None:
        check_name(session)
    if no_log and (session is not None or last):
        raise UsageError("--no-log keeps nothing, so it does not go with --session or --continue")
    console = Console(highlight=False)
    keeper = Keeper(None if no_log else open_history(tell), tell)
    kept = keeper.resume(session) if session is not None or last else None
    if last and kept is None:
        raise SessionError("there is no conversation to resume; begin one with `gptoss-mac chat`")
    if kept is not None:
        model = kept.model if model is None else model
    loading = options.Loading(model, yes, memory, context, trace_experts, prefix_disk, own_model, warm=True)
    consent = offered.Consent(allow_tools)
    with offered.opened_tools(tools, mcp, consent) as found:
        conversation = options.open_conversation(
            kept, loading, reasoning, system, temperature, max_tokens, seed, tools=found, confirm=consent
        )

        from gptoss_mlx.cli.chatting import Chat

        mode = thinking or ("fold" if console.is_terminal else "show")
        interactive = console.is_terminal and sys.stdin.isatty()
        chatting = Chat(conversation, console, keeper, loading, mode, consent, interactive=interactive)
        del conversation  # so that /model can give it up
        with closing(chatting):
            if kept is not None:
                chatting.resume(kept)
            if console.is_terminal:
                chatting.say(chatting.status())
            with _input(chatting, keeper.names, interactive) as read:
                while (line := read()) is not None and chatting.take(line):
                    pass


@contextmanager
def _input(chatting: "Chat", names: Callable[[], list[str]], interactive: bool) -> Iterator[Callable[[], str | None]]:
    """Yield a function that returns what the user sends next, or None at the end. A terminal has editing and history.
    A pipe is read line by line."""
    if not interactive:
        yield LineReader(lambda size: os.read(sys.stdin.fileno(), size), "standard input").readline
        return

    from gptoss_mlx.cli.chat_commands import NAMES, values_of
    from gptoss_mlx.cli.prompt import Prompt
    from gptoss_mlx.installed import installed_models

    def values(command: str) -> list[str]:
        more = {"/model": installed_models, "/save": names}.get(command)
        return [*values_of(command), *(more() if more else ())]

    def read() -> str | None:
        while True:
            try:
                default, chatting.default = chatting.default, ""
                return prompt.read(default)
            except EOFError:
                return None
            except UsageError as error:
                chatting.say(str(error))
            except KeyboardInterrupt:
                pass  # Ctrl-C discards what is being typed; Ctrl-D quits

    with closing(Prompt(NAMES, values, chatting.status)) as prompt:
        yield read
