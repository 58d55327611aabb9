"""Shell completion: the script that a shell reads, and what it completes option values to. Imports nothing slow."""

from typing import Annotated, Literal

import typer

from gptoss_mlx.errors import GptOssError

PROGRAM = "gptoss-mac"
VARIABLE = "_GPTOSS_MAC_COMPLETE"
"""By this environment variable a shell asks for completions, as Typer expects it."""


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell that reads the script.")],
) -> None:
    """Print a script with which a shell completes commands, options, models and sessions.

    In ~/.bashrc: `eval "$(gptoss-mac completion bash)"`. In ~/.zshrc, after compinit: `eval "$(gptoss-mac completion
    zsh)"`. In ~/.config/fish/config.fish: `gptoss-mac completion fish | source`.
    """
    from typer.completion import get_completion_script

    print(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell))


def answer_shells() -> None:
    """Let Typer answer the shell that asks for completions, which it does only where this was called."""
    from typer.completion import completion_init

    completion_init()


def models(incomplete: str) -> list[str]:
    """Return the installed models whose name begins so, and the bundled one."""
    from gptoss_mlx.home import BUNDLED
    from gptoss_mlx.installed import installed_models

    return _beginning([*installed_models(), BUNDLED], incomplete)


def sessions(incomplete: str) -> list[str]:
    """Return the names of kept conversations that begin so."""
    from gptoss_mlx.history import opened_history

    try:
        with opened_history() as history:
            return _beginning(history.names(), incomplete)
    except GptOssError:
        return []


def templates(incomplete: str) -> list[str]:
    """Return the names of templates that begin so."""
    from gptoss_mlx.templates import template_names

    return _beginning(template_names(), incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
