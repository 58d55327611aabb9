"""``gptoss-mac models``: the models installed on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gptoss_mlx.cli.options import MODEL_HELP

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help=MODEL_HELP)]


@app.callback()
def models(context: typer.Context) -> None:
    """List, check and remove installed models, and choose the default one. Without a command, list them."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List installed models. Each line has name, size, type of dense weights, source, and which is the default."""
    from rich.filesize import decimal

    from gptoss_mlx.errors import ModelFolderError, shown
    from gptoss_mlx.home import models_dir
    from gptoss_mlx.installed import default_model, installed_models
    from gptoss_mlx.model_folder import read_manifest
    from gptoss_mlx.published import published_name

    names = installed_models()
    default = default_model()
    default = published_name(default) or default
    for name in names:
        folder = models_dir() / name
        try:
            manifest = read_manifest(folder)
        except ModelFolderError as error:
            print(f"gptoss-mac: {error}", file=sys.stderr)
            continue
        source = manifest.get("source")
        source = source if isinstance(source, dict) else {}
        origin = f"{shown(str(source.get('folder')))} ({shown(str(source.get('layout')))})"
        mark = "default" if name == default else ""
        print(f"{name}\t{decimal(_size(folder))}\t{manifest['quantization']['dense']}\t{origin}\t{mark}")
    if not names:
        print("no model is installed; for the small one run: gptoss-mac convert tiny", file=sys.stderr)


@app.command()
def path(name: Name) -> None:
    """Print the folder of a model."""
    from gptoss_mlx.errors import shown
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

    from gptoss_mlx.errors import shown
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
    """Delete an installed model. Asks first. What lies outside GPTOSS_MAC_HOME is never deleted."""
    from rich.filesize import decimal

    from gptoss_mlx.cli.terminal import agreed
    from gptoss_mlx.errors import UsageError, shown
    from gptoss_mlx.home import models_dir
    from gptoss_mlx.installed import check_installed, remove_model
    from gptoss_mlx.published import published_name

    name = published_name(name) or name
    check_installed(name)
    folder = models_dir() / name
    size = 0 if folder.is_symlink() else _size(folder)
    if not yes and not agreed(f"Delete {shown(str(folder))} ({decimal(size)})?"):
        raise UsageError(f"'{name}' is kept; answer y at a terminal, or give --yes")
    remove_model(name)
    print(f"deleted {shown(str(folder))}, {decimal(size)}")


@app.command()
def verify(name: Name) -> None:
    """Compare every byte of a model's weights with its checksums.

    Exit codes: 0 no difference, 3 a tensor differs or is missing, 4 the model is not installed.
    """
    from gptoss_mlx.cli.progress import byte_progress
    from gptoss_mlx.errors import shown
    from gptoss_mlx.installed import find_model
    from gptoss_mlx.model_folder import ModelFolder

    folder = ModelFolder.open(find_model(name))
    with byte_progress("Verifying") as progress:
        folder.verify(progress)
    print(f"{shown(str(folder.path))}: all {len(folder.names())} tensors are as they were converted")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
