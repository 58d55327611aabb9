"""``gptoss-mac convert``: make a model folder from a checkpoint."""

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptoss_mlx.cli.awake import AllowSleep, awake
from gptoss_mlx.cli.terminal import between_calls

if TYPE_CHECKING:
    from convert import Report


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="20b, 120b, tiny, a checkpoint's folder, a GGUF file, OWNER/NAME on the Hub, or ollama:NAME."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to create.", show_default="under GPTOSS_MAC_HOME, or NAME-hf here")
    ] = None,
    dense: Annotated[
        Literal["q8", "bf16"] | None,
        typer.Option(
            help="Store attention, embedding and head in 8 bits, or as published. Experts never change.",
            show_default="q8",
        ),
    ] = None,
    to: Annotated[
        Literal["hf"] | None,
        typer.Option(help="The way back: make a checkpoint that transformers loads of an installed model."),
    ] = None,
    keep_source: Annotated[
        bool, typer.Option("--keep-source", help="Keep the files of a download under GPTOSS_MAC_HOME/checkpoints.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
    allow_sleep: AllowSleep = False,
) -> None:
    """Convert a checkpoint into a model folder, or a model folder into a checkpoint.

    Copies that other programs have on this machine are offered first. Else 20b, 120b and OWNER/NAME are downloaded and
    converted as they arrive. What has arrived is kept when the command is stopped or killed. Run it again to go on.
    """
    with awake(allow_sleep):
        if to is not None:
            from gptoss_mlx.cli.export import export
            from gptoss_mlx.errors import UsageError

            if dense is not None or keep_source:
                raise UsageError("--dense and --keep-source are for making a model folder; leave them out with --to hf")
            export(source, out)
            return
        report = make_model(source, out, dense=dense or "q8", keep_source=keep_source, yes=yes)
    _show(report, named=out is None)


def make_model(
    source: str, out: Path | None = None, *, dense: str = "q8", keep_source: bool = False, yes: bool = False
) -> "Report":
    """Convert what ``source`` names, after a download if need be, with progress on standard error. ``out`` is the model
    folder, None: that of its name among the installed models. ``yes``: download without asking."""
    from gptoss_mlx.home import BUNDLED, DOWNLOAD, checkpoints_dir, hidden_folder, models_dir

    name, folder, repo_id = _resolve(source)
    destination = out if out is not None else models_dir() / name
    if folder is None:
        from convert.atomic_folder import check_absent
        from gptoss_mlx.cli.obtain import local_copy, obtain
        from gptoss_mlx.published import HUB_IDS

        check_absent(destination)
        if repo_id in HUB_IDS.values() and not (hidden_folder(destination) / DOWNLOAD).exists():
            folder = local_copy(name, destination, dense, yes)
    if folder is None:
        keep = checkpoints_dir() / name if keep_source else None
        return obtain(repo_id, destination, dense=dense, keep=keep, yes=yes)

    import convert
    from gptoss_mlx import bundled
    from gptoss_mlx.cli.progress import byte_progress

    if name == BUNDLED and not folder.exists():
        folder = bundled.checkpoint()
    alone = bundled.installing() if destination == models_dir() / BUNDLED else nullcontext()
    with alone, byte_progress("Converting") as progress, between_calls(progress) as stoppable:
        return convert.convert(folder, destination, dense=dense, progress=stoppable)


def _resolve(source: str) -> tuple[str, Path | None, str]:
    """Return the model name for what a user calls a source, where it lies, None if only its id on the Hub is known, and
    that id, "" if it has none."""
    from gptoss_mlx.home import BUNDLED, model_name, name_for_hub_id
    from gptoss_mlx.published import HUB_IDS, is_hub_id, published_name

    path = Path(source)
    if os.path.exists(path) or source == BUNDLED:  # Path.exists raises for a name that is too long
        return model_name(path), path, ""

    from convert.local import resolve_source

    if published := published_name(source):
        return published, None, HUB_IDS[published]
    is_id = is_hub_id(source)
    name = name_for_hub_id(source) if is_id else model_name(path)
    if copy := resolve_source(source):
        return name, copy, ""
    return (name, None, source) if is_id else (name, path, "")


def _show(report: "Report", named: bool) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    from gptoss_mlx.errors import shown

    config = report.config
    tokenizer = {"checkpoint": "the checkpoint's", "bundled": "bundled, as in the published models", None: "none"}
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Model folder", Text(shown(str(report.destination))))
    table.add_row("Source layout", report.layout)
    table.add_row("Layers, experts", f"{config.num_hidden_layers}, {config.num_local_experts}")
    if report.unknown_fields:
        table.add_row("Not used", Text(f"unknown fields: {_listed(report.unknown_fields)}"))
    table.add_row("Experts", report.experts)
    table.add_row("Dense", report.dense)
    for number, loss in enumerate(report.losses):
        table.add_row("" if number else "Lost", Text(loss))
    table.add_row("Tokenizer", tokenizer[report.tokenizer])
    table.add_row("Read", decimal(report.bytes_read))
    table.add_row("Written", f"{decimal(report.bytes_written)}, {report.tensors} tensors")
    table.add_row("Time", f"{report.seconds:.1f} s")
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 1000  # keeps a path in a log on one line
    console.print(table)
    if report.tokenizer is None:
        console.print(
            f"\nThe checkpoint has no tokenizer.json, and its vocabulary of {config.vocab_size:,} is too small for the "
            "published one: this model takes token ids only. To chat, convert it with its tokenizer.json."
        )
        return
    # A bare name would mean an installed model of that name first.
    model = report.destination.name if named else os.path.join(os.curdir, report.destination)
    console.print(Text(f"\nNext: gptoss-mac chat --model {shown(shlex.quote(model))}"))


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    """Return names that a file contains in one line, each cut to 60 characters."""
    from gptoss_mlx.errors import shown

    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name[:60]) for name in names[:most]) + more
