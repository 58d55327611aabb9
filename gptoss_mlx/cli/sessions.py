"""``gptoss-mac sessions``: manage the conversations saved by ``chat --session``."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from gptoss_mlx.cli.terminal import print_json
from gptoss_mlx.errors import SessionError, shown
from gptoss_mlx.screen.style import printable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Name of the session.")]


@app.callback()
def sessions() -> None:
    """List, show, export or remove saved conversations."""


@app.command("list")
def list_() -> None:
    """List sessions, latest first. Each line has name, model, messages and date."""
    from gptoss_mlx.sessions import read_session, session_names

    for name in session_names():
        try:
            session = read_session(name)
        except SessionError as error:
            print(f"gptoss-mac: {error}", file=sys.stderr)
            continue
        said = sum(message["channel"] != "analysis" for message in session.messages)
        print(f"{shown(name)}\t{shown(str(session.model))}\t{said} messages\t{shown(str(session.saved))}")


@app.command()
def show(name: Name) -> None:
    """Print the messages of a session."""
    from gptoss_mlx.sessions import read_session

    for message in read_session(name).messages:
        if message["channel"] == "analysis":
            continue
        text = f"{shown(str(message['name'] or message['role']))}: {message['content']}"
        print(printable(text) if sys.stdout.isatty() else text)


@app.command()
def export(name: Name) -> None:
    """Print a session as JSON, including thoughts."""
    from gptoss_mlx.sessions import read_session

    print_json(asdict(read_session(name)))


@app.command("rm")
def remove(name: Name) -> None:
    """Delete a session."""
    from gptoss_mlx.sessions import remove_session

    remove_session(name)
