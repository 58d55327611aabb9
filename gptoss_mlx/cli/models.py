"""``gptoss-mac models``: the models installed on this machine."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_mlx.cli.options import MODEL_HELP
from gptoss_mlx.cli.terminal import print_json
from gptoss_mlx.errors import shown

if TYPE_CHECKING:
    from gptoss_mlx.model_folder import ModelFolder

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help=MODEL_HELP)]


@app.callback()
def models(context: typer.Context) -> None:
    """List, check and remove installed models, and choose the default one. Without a command, list them."""
    if context.invoked_subcommand is None:
        list_(as_json=False)


@dataclass(frozen=True)
class Listed:
    """A model in a list. ``bytes`` is its size on disk; the times are ISO 8601 in UTC, None for never."""

    name: str
    bytes: int
    dense: str
    source: str
    last_used: str | None
    verified: str | None
    default: bool


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with sizes in bytes and times in UTC.")] = False,
) -> None:
    """List installed models.

    Each line has name, size, type of dense weights, source, when the model was last used and last verified, and which
    one is the default. A terminal gets a table, anything else fields between tabs.
    """

    from gptoss_mlx.errors import ModelFolderError
    from gptoss_mlx.installed import default_model, installed_models, unfinished_models
    from gptoss_mlx.published import published_name

    default = default_model()
    default = published_name(default) or default
    found = []
    for name in installed_models():
        try:
            found.append(_listed(name, default))
        except ModelFolderError as error:
            print(f"gptoss-mac: {error}", file=sys.stderr)
    if as_json:
        print_json([asdict(one) for one in found])
    elif found:
        _print_table(found)
    for name in unfinished_models():
        print(_unfinished(name), file=sys.stderr)
    if not installed_models() and not unfinished_models():
        print("no model is installed; for the small one run: gptoss-mac convert tiny", file=sys.stderr)


def _unfinished(name: str) -> str:
    """Return a line about an unfinished download: its size on disk, and the command that goes on with it."""
    from rich.filesize import decimal

    from convert.journal import JOURNAL, read_journal
    from gptoss_mlx.files import nbytes_on_disk
    from gptoss_mlx.home import DOWNLOAD, hidden_folder, models_dir

    folder = models_dir() / name
    hidden = hidden_folder(folder)
    journal = read_journal(hidden / DOWNLOAD / JOURNAL)
    remedy = f"`{journal[0].command(folder)}` goes on" if journal else f"`gptoss-mac models rm {name}` discards it"
    return shown(f"{name}: {decimal(nbytes_on_disk(hidden))} of an unfinished download; {remedy}")


def _listed(name: str, default: str) -> Listed:
    from gptoss_mlx.files import nbytes_in
    from gptoss_mlx.home import models_dir
    from gptoss_mlx.model_folder import read_manifest
    from gptoss_mlx.records import read_record

    folder = models_dir() / name
    manifest = read_manifest(folder)
    source = manifest.get("source")
    source = source if isinstance(source, dict) else {}
    origin = f"{shown(str(source.get('folder')))} ({shown(str(source.get('layout')))})"
    record = read_record(folder)
    return Listed(
        name=name,
        bytes=nbytes_in(folder),
        dense=manifest["quantization"]["dense"],
        source=origin,
        last_used=record.last_used.isoformat() if record.last_used else None,
        verified=record.verified.isoformat() if record.verified else None,
        default=name == default,
    )


def _print_table(models: list[Listed]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    rows = [
        (
            model.name,
            decimal(model.bytes),
            model.dense,
            model.source,
            _date(model.last_used),
            _date(model.verified),
            "default" if model.default else "",
        )
        for model in models
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, pad_edge=False, header_style="")
    for title in ("Name", "Size", "Dense", "Source", "Last used", "Verified", ""):
        folded = title in ("Name", "Source")
        table.add_column(title, no_wrap=not folded, overflow="fold", justify="right" if title == "Size" else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _date(time: str | None) -> str:
    """Return a time's date in this machine's zone, or "never"."""
    from datetime import datetime

    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d}" if time else "never"


@app.command()
def path(name: Name) -> None:
    """Print the folder of a model."""
    from gptoss_mlx.installed import find_model

    print(shown(str(find_model(name))))


@app.command()
def default(
    name: Annotated[str | None, typer.Argument(help=f"{MODEL_HELP} Without it, print the default.")] = None,
) -> None:
    """Print the default model, or choose it.

    It is the one that GPTOSS_MAC_MODEL names, else the one chosen here, else the only one installed, else 20b.
    """
    import os

    from gptoss_mlx.installed import VARIABLE, default_model, set_default_model

    if name is not None:
        set_default_model(name)
        if os.environ.get(VARIABLE):
            print(f"gptoss-mac: stored, but {VARIABLE} is set and goes first", file=sys.stderr)
    print(shown(default_model()))


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="Name of an installed model.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete an installed model, or what has arrived of an unfinished download. Asks first.

    What lies outside GPTOSS_MAC_HOME is never deleted.
    """
    from rich.filesize import decimal

    from gptoss_mlx.cli.terminal import agreed
    from gptoss_mlx.errors import UsageError
    from gptoss_mlx.files import nbytes_in, nbytes_on_disk
    from gptoss_mlx.home import hidden_folder, models_dir
    from gptoss_mlx.installed import check_installed, remove_model
    from gptoss_mlx.published import published_name

    name = published_name(name) or name
    check_installed(name)
    folder = models_dir() / name
    if os.path.lexists(folder):
        size = 0 if folder.is_symlink() else nbytes_in(folder)
    else:
        folder = hidden_folder(folder)
        size = nbytes_on_disk(folder)
    if not yes and not agreed(f"Delete {shown(str(folder))} ({decimal(size)})?"):
        raise UsageError(f"'{name}' is kept; answer y at a terminal, or give --yes")
    remove_model(name)
    print(f"deleted {shown(str(folder))}, {decimal(size)}")


@app.command()
def verify(
    name: Name,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Compare with this checkpoint too: bit for bit, and 8-bit dense matrices within their rounding.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare every byte of a model's weights with its checksums.

    Exit codes: 0 no difference, 3 a tensor differs or is missing, 4 the model is not installed.
    """
    from gptoss_mlx.cli.progress import byte_progress
    from gptoss_mlx.installed import find_model
    from gptoss_mlx.model_folder import ModelFolder

    path = find_model(name)
    with _recorded(path):
        folder = ModelFolder.open(path)
        compared = None if against is None else _compare(folder, against)
        # Also after a comparison, because some bits of a q8 code could change within the bound.
        with byte_progress("Verifying") as progress:
            folder.verify(progress)
    print(f"{shown(str(path))}: all {len(folder.names())} tensors are as they were converted")
    if compared is not None:
        print(compared)


@contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """Note that the model is verified, or forget it after a ModelFolderError. Say so if that cannot be written."""
    from gptoss_mlx.errors import ModelFolderError
    from gptoss_mlx.records import forget_verified, note_verified

    try:
        yield
    except ModelFolderError:
        with _not_recorded(folder):
            forget_verified(folder)
        raise
    with _not_recorded(folder):
        note_verified(folder)


@contextmanager
def _not_recorded(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        print(f"gptoss-mac: {shown(str(folder))}: cannot be written ({error.strerror}), not recorded", file=sys.stderr)


def _compare(folder: "ModelFolder", source: str) -> str:
    """Return a line that says what was compared. Raises ModelFolderError where they differ."""
    from convert.local import resolve_source
    from convert.verification import compare
    from gptoss_mlx.cli.progress import byte_progress

    with byte_progress("Comparing") as progress:
        found = compare(folder, resolve_source(source) or source, progress)
    parts = [f"{found.exact} tensors bit for bit"]
    if found.q8:
        parts.append(f"{found.q8} matrices in q8 within their bound (largest error {found.largest:.3f} of it)")
    return "\n".join((f"as in {shown(source)}: {', '.join(parts)}", *map(shown, found.losses)))
