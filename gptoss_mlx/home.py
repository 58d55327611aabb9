"""Where models and sessions lie on this machine, and how a converted checkpoint is named. Opens no file."""

import os
import re
from pathlib import Path

from gptoss_mlx.errors import UsageError
from gptoss_mlx.published import published_name

DOWNLOAD = "download"
"""Name of the folder, inside a hidden one, that keeps what an unfinished download needs to go on."""

BUNDLED = "tiny"
"""Name of the model that comes with the program."""


def home_dir() -> Path:
    """Return $GPTOSS_MAC_HOME, by default ~/.cache/gptoss-mac. Raises UsageError for the home of an unknown user."""
    home = os.environ.get("GPTOSS_MAC_HOME")
    try:
        return Path(home).expanduser() if home else Path.home() / ".cache" / "gptoss-mac"
    except RuntimeError as error:
        raise UsageError(f"GPTOSS_MAC_HOME is {home or 'unset'}: no such home; set it to a folder") from error


def models_dir() -> Path:
    """Return the folder that holds the model folders."""
    return home_dir() / "models"


def checkpoints_dir() -> Path:
    """Return the folder that holds the checkpoints that users keep after a download."""
    return home_dir() / "checkpoints"


def hidden_folder(model: Path) -> Path:
    """Return where a model folder lies until it is complete: beside ``model``."""
    model = Path(os.path.abspath(model))
    return model.with_name(f".{model.name}.partial")


def sessions_dir() -> Path:
    """Return the folder in which earlier versions saved sessions."""
    return home_dir() / "sessions"


def history_dir() -> Path:
    """Return the folder that holds the database of what was said."""
    return home_dir() / "said"


def templates_dir() -> Path:
    """Return the folder that holds a user's templates."""
    return home_dir() / "templates"


def sandbox_dir() -> Path:
    """Return the folder that keeps the compiled interpreter of the sandbox."""
    return home_dir() / "sandbox"


def snapshots_dir() -> Path:
    """Return the folder that holds what models have read."""
    return home_dir() / "snapshots"


def verdicts_dir() -> Path:
    """Return the folder that holds which shaders are right on this machine."""
    return home_dir() / "shaders"


def default_model_file() -> Path:
    """Return the file that holds the name or path of the default model."""
    return home_dir() / "default-model"


def server_log_file() -> Path:
    """Return the file that the server of an agent writes to."""
    return home_dir() / "serve.log"


def history_file() -> Path:
    """Return the file of lines typed into chats."""
    return home_dir() / "history"


def model_name(source: Path) -> str:
    """Return the model name for a checkpoint: "20b" or "120b" for a published one, else made of the folder's or file's.

    The folder may be ``original/`` in a checkpoint, or ``models--owner--name/snapshots/revision`` in the Hub's cache.
    A GGUF file may be one of several parts, and a name may be one in ollama, such as ``ollama:gpt-oss:20b``.
    """
    source = Path(os.path.abspath(str(source).removeprefix("ollama:")))
    if source.name == "original":
        source = source.parent
    if source.parent.name == "snapshots" and source.parent.parent.name.startswith("models--"):
        source = source.parent.parent
    name = source.name.rpartition("--")[2] if source.name.startswith("models--") else source.name
    name = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-") or "model"
    return published_name(name) or name


def name_for_hub_id(repo_id: str) -> str:
    """Return the model name for OWNER/NAME on the Hub. Only OpenAI's own are "20b" and "120b"."""
    if published := published_name(repo_id):
        return published
    owner, _, name = repo_id.partition("/")
    return f"{owner}-{name}" if published_name(name) else name
