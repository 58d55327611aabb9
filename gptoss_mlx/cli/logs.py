"""``gptoss-mac logs``: what was said in ``chat`` and ``run``."""

import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gptoss_mlx.cli.options import as_text
from gptoss_mlx.cli.terminal import print_json
from gptoss_mlx.errors import SessionError, shown
from gptoss_mlx.screen.style import printable

if TYPE_CHECKING:
    from gptoss_mlx.history import History, Kept, Listed

app = typer.Typer(rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="ID|NAME", help="Number or name of a conversation.", callback=as_text)]


def _as_texts(param: typer.CallbackParam, values: list[str]) -> list[str]:
    """Return words as text in any locale."""
    return [as_text(param, value) or "" for value in values]


Most = Annotated[int, typer.Option("-n", "--most", min=1, help="How many to list.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with times in UTC.")]


@app.callback(invoke_without_command=True)
def logs(context: typer.Context) -> None:
    """List, search, show, export and remove what was said in chat and run. Without a command, list it."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(most: Most = 20, as_json: AsJson = False) -> None:
    """List conversations, the latest first: number, local time, program, messages, model, name, beginning."""
    _print(_history(lambda history: history.listed(most)), as_json)


@app.command()
def search(
    words: Annotated[
        list[str],
        typer.Argument(help="Words, or how words begin. One message must have them all.", callback=_as_texts),
    ],
    most: Most = 20,
    as_json: AsJson = False,
) -> None:
    """Find conversations by what was said in them, the best first."""
    _print(_history(lambda history: history.search(" ".join(words), most)), as_json)


@app.command()
def show(name: Name, thinking: Annotated[bool, typer.Option("--thinking", help="Show thoughts too.")] = False) -> None:
    """Print what was said in a conversation."""
    text = _as_markdown(_read(name), thinking)
    print(printable(text) if sys.stdout.isatty() else text)


@app.command()
def export(
    name: Name,
    format: Annotated[Literal["markdown", "json"], typer.Option(help="JSON has all, thoughts included.")] = "json",
) -> None:
    """Print a conversation as Markdown or JSON."""
    kept = _read(name)
    if format == "markdown":
        print(_as_markdown(kept, thinking=False))
    else:
        print_json(asdict(kept))


@app.command("rm")
def remove(name: Name) -> None:
    """Delete a conversation."""
    _history(lambda history: history.remove(_id(history, name)))


def _history(use: Any) -> Any:
    """Return what ``use`` returns of the open history. Say what could not be imported into it."""
    from gptoss_mlx.history import opened_history

    with opened_history() as history:
        for notice in history.notices:
            print(notice, file=sys.stderr)
        return use(history)


def _read(name: str) -> "Kept":
    kept: Kept = _history(lambda history: history.read(_id(history, name)))
    return kept


def _id(history: "History", name: str) -> int:
    id = history.find(name)
    if id is None:
        raise SessionError(f"no conversation '{shown(name)}'; `gptoss-mac logs` lists those there are")
    return id


def _print(found: "list[Listed]", as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [
        (
            str(one.id),
            _local(one.changed),
            one.program,
            str(one.count),
            shown(_short(one.model)),
            shown(one.name or "-"),
        )
        for one in found
    ]
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(6)]
    for row, one in zip(rows, found, strict=True):
        cells = [
            cell.rjust(width) if n in (0, 3) else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join([*cells, shown(" ".join(one.text.split()))])
        print(_fitting(line))


def _fitting(line: str) -> str:
    """Return a line cut to the terminal's width, or whole elsewhere."""
    if not sys.stdout.isatty():
        return line
    import shutil

    from rich.cells import cell_len, set_cell_size

    columns = shutil.get_terminal_size().columns
    return set_cell_size(line, columns - 1).rstrip() if cell_len(line) >= columns else line


def _short(model: str) -> str:
    return model.rpartition("/")[2]


def _local(time: str) -> str:
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-"


def _as_markdown(kept: "Kept", thinking: bool) -> str:
    head = (
        f"# {shown(kept.name) if kept.name else f'Conversation {kept.id}'}\n\n{_local(kept.began)}, {shown(kept.model)}"
    )
    parts = [head, *([f"## System\n\n{kept.instructions}"] if kept.instructions else [])]
    said = (message for message in kept.messages if message["channel"] != "analysis" or thinking)
    parts += [f"## {_speaker(message)}\n\n{message['content']}" for message in said]
    return "\n\n".join(parts)


def _speaker(message: dict[str, Any]) -> str:
    if message["role"] == "user":
        return "You"
    if message["role"] == "tool":
        return f"Result of {shown(str(message['name']))}"
    if message["recipient"]:
        return f"Call of {shown(str(message['recipient']))}"
    return "Thought" if message["channel"] == "analysis" else "Answer"
