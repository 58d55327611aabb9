"""``gptoss-mac models``: the models installed on this machine."""

from typing import Annotated

import typer

from gptoss_mlx.cli.options import MODEL_HELP

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def models() -> None:
    """Check installed models."""


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help=MODEL_HELP)],
) -> None:
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
