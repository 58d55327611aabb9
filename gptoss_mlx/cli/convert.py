"""``gptoss-mac convert``: a checkpoint in, a model folder out."""

from pathlib import Path
from typing import Annotated

import typer


def convert(source: Annotated[Path, typer.Argument(help="A checkpoint folder.")]) -> None:
    """Convert a published checkpoint into a model folder."""
    raise typer.Exit(2)
