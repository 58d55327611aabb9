"""Figures of matplotlib, which extra ``plots`` installs, as files that show on white and on black."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from gptoss_mlx.errors import UsageError
from gptoss_mlx.files import check_place, replaced_whole, storage_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMS = (".png", ".svg", ".pdf")
GREY = "#7f7f7f"


def check_picture(path: Path) -> None:
    """Raise UsageError where no picture can be drawn: without matplotlib, or to a file of another kind. Raise
    StorageError where none can be written."""
    if path.suffix.lower() not in FORMS:
        raise UsageError(f"{path}: pictures are written as {', '.join(FORMS)}; give a file that ends so")
    check_matplotlib()
    check_place(path)


def check_matplotlib() -> None:
    """Raise UsageError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib, which is not installed; run: pip install 'gptoss-mac[plots]'"
        ) from error


def in_grey(figure: "Figure") -> None:
    """Give text and lines a grey that shows on any ground, and leave the ground out."""
    from matplotlib.text import Text

    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=GREY)
        for spine in axes.spines.values():
            spine.set_color(GREY)
    for text in figure.findobj(Text):
        text.set_color(GREY)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure whole or not at all, in a folder that is made if it is missing. Raises StorageError."""
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix[1:].lower())
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(path) as partial:
            partial.write_bytes(data.getvalue())
        path.chmod(0o644)
