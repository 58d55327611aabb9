"""The command line: one module per command, each thin. This one joins them and turns errors into a line and a code.

Nothing heavy is imported until a command runs, so ``--help`` is quick.
"""

import sys

import typer

from gptoss_mlx.cli import chat, convert, doctor, run, sessions
from gptoss_mlx.errors import GptOssError

app = typer.Typer(
    name="gptoss-mac",
    help="Run OpenAI's gpt-oss models on a Mac.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: quick, and the README shows it as it is
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(chat.chat)
app.command()(run.run)
app.command()(convert.convert)
app.command()(doctor.doctor)
app.add_typer(sessions.app, name="sessions")


@app.callback()
def _root() -> None:
    """Run OpenAI's gpt-oss models on a Mac."""


def main() -> None:
    """Run the command line. Exit codes are those of ``gptoss_mlx.errors``; 130 after Ctrl-C."""
    try:
        app()
    except GptOssError as error:
        print(f"gptoss-mac: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
