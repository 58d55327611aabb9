"""``gptoss-mac models``: the models installed on this machine."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def models() -> None:
    """Look after installed models."""


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="An installed model (20b, 120b, tiny), or a model folder.")],
) -> None:
    """Compare every byte of a model's weights with what was converted.

    Exit codes: 0 all are the same, 3 one differs or is missing, 4 a model that is not installed.
    """
    from gptoss_mlx.cli.progress import byte_progress
    from gptoss_mlx.errors import shown
    from gptoss_mlx.installed import find_model
    from gptoss_mlx.model_folder import ModelFolder

    folder = ModelFolder.open(find_model(name))
    with byte_progress("Verifying") as progress:
        folder.verify(progress)
    print(f"{shown(str(folder.path))}: all {len(folder.names())} tensors are as they were converted")
