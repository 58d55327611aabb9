"""Where models live on this machine, and what a checkpoint is called there. Knows paths and names, opens nothing."""

import os
import re
from pathlib import Path

from gptoss_mlx.errors import UsageError

PUBLISHED = {"gpt-oss-20b": "20b", "gpt-oss-120b": "120b"}


def home_dir() -> Path:
    """$GPTOSS_MAC_HOME, by default ~/.cache/gptoss-mac. Raises UsageError when it names no user's home."""
    home = os.environ.get("GPTOSS_MAC_HOME")
    try:
        return Path(home).expanduser() if home else Path.home() / ".cache" / "gptoss-mac"
    except RuntimeError as error:  # ~ of a user there is none of
        raise UsageError(f"GPTOSS_MAC_HOME is {home or 'unset'}: no such home; set it to a folder") from error


def models_dir() -> Path:
    """The folder of model folders."""
    return home_dir() / "models"


def sessions_dir() -> Path:
    """The folder of saved conversations."""
    return home_dir() / "sessions"


def history_file() -> Path:
    """Lines typed into chats."""
    return home_dir() / "history"


def model_name(source: Path) -> str:
    """A name for the model in a checkpoint folder: "20b" and "120b" for the published ones, else the folder's own.

    Looks through ``original/`` and the Hub cache's ``models--owner--name/snapshots/revision``.
    """
    source = Path(os.path.abspath(source))
    if source.name == "original":
        source = source.parent
    if source.parent.name == "snapshots" and source.parent.parent.name.startswith("models--"):
        source = source.parent.parent
    name = source.name.rpartition("--")[2] if source.name.startswith("models--") else source.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"
    return PUBLISHED.get(name.lower(), name)
