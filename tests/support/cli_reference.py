"""The page of commands: what ``--help`` prints, command by command.

``python -m tests.support.cli_reference`` rewrites the part of ``docs/commands.md`` behind the marker. A test compares
it.
"""

from collections.abc import Iterator
from pathlib import Path

import typer

from gptoss_mlx.cli.commands import app
from gptoss_mlx.cli.completion import PROGRAM

PAGE = Path(__file__).parent.parent.parent / "docs" / "commands.md"
MARKER = "<!-- What follows is made by `make commands`. -->\n"
COLUMNS = 78


def contexts():
    """Yield the context of the program and of each command, those within a command after it."""
    yield from _below(typer.main.get_command(app), PROGRAM, None)


def _below(command, name, parent) -> Iterator:
    context = command.context_class(
        command, parent=parent, info_name=name, terminal_width=COLUMNS, **command.context_settings
    )
    yield context
    for inner in getattr(command, "commands", {}).values():
        yield from _below(inner, inner.name, context)


def reference() -> str:
    parts = []
    for context in contexts():
        text = "\n".join(line.rstrip() for line in context.command.get_help(context).splitlines())
        level = "##" if context.parent is None or context.parent.parent is None else "###"
        parts.append(f"{level} {context.command_path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def with_reference(page: str) -> str:
    return f"{page.split(MARKER)[0]}{MARKER}\n{reference()}"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text()))
