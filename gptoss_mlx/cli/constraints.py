"""The options that say what an answer shall be: a JSON Schema, a regex or a grammar, and how much may be thought."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptoss_mlx.cli.options import as_text
from gptoss_mlx.errors import GrammarError, UsageError, quoted, shown
from gptoss_mlx.text_input import argument

if TYPE_CHECKING:
    from gptoss_mlx.grammars import Grammar
    from gptoss_mlx.link.client import AnyRuntime

MOST_BYTES = 1 << 22
"""Of a file with a schema or a grammar."""

Schema = Annotated[
    str | None,
    typer.Option(metavar="FILE|JSON", help="Print a JSON value that satisfies this JSON Schema, and nothing else."),
]
BatchSchema = Annotated[
    str | None, typer.Option("--schema", metavar="FILE|JSON", help="Answer with values that satisfy this JSON Schema.")
]
Regex = Annotated[str | None, typer.Option(help="Print a text that this regex matches whole.", callback=as_text)]
GrammarFile = Annotated[
    Path | None, typer.Option("--grammar", metavar="FILE", help="Print a text of this grammar, in Lark.")
]
ThinkTokens = Annotated[
    int | None,
    typer.Option(help="Begin the answer after a thought of this many tokens.", show_default="no limit", min=0),
]
NoRepeatGuard = Annotated[
    bool, typer.Option("--no-repeat-guard", help="Do not end a reply that only repeats itself, for 200 tokens.")
]


def read_schema(given: str) -> Any:
    """Return the schema in a file, or in the text itself if it is no file's name. Raises UsageError."""
    literal = given.lstrip().startswith(("{", "[", '"')) or given.strip() in ("", "true", "false", "null")
    text = argument(given, "--schema") if literal else _content(Path(given), "--schema")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise GrammarError("the schema nests too deep to be read", "#") from error
    except ValueError as error:
        where = "--schema" if literal else given
        raise UsageError(f"{where}: it is not JSON ({error})") from error


def read_constraint(schema: str | None, regex: str | None, grammar: Path | None) -> "dict[str, Any] | Grammar | None":
    """Return what the options ask an answer to be, a checked schema as it is: the model reads it too. Say on standard
    error what of it is not enforced. Raises UsageError and GrammarError."""
    given = [option for option in (schema, regex, grammar) if option is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError("--schema, --regex and --grammar exclude one another; give one of them")
    from gptoss_mlx.grammars import from_lark, from_regex, from_schema

    if regex is not None:
        return from_regex(regex)
    if grammar is not None:
        return from_lark(_content(grammar, "--grammar"))
    assert schema is not None
    read = read_schema(schema)
    checked = from_schema(read)
    for warning in checked.warnings:
        print(shown(f"--schema {warning}"), file=sys.stderr)
    return read if isinstance(read, dict) else checked


def wait_for_constraints(runtime: "AnyRuntime") -> None:
    """Wait until constraints can be made of the model's vocabulary, and say so at a terminal if that takes a while."""
    from concurrent.futures import TimeoutError

    from rich.console import Console

    ready = runtime.prepare_constraints()
    try:
        ready.result(timeout=0.3)
    except TimeoutError:
        with Console(stderr=True).status("Preparing the constraint"):
            ready.result()


def _content(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(f"{path}: is larger than {MOST_BYTES >> 20} MB")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{option} {quoted(str(path), 80)}: cannot be read ({why})") from error
