"""Finding the folder of a model by its path, its name under ``home.models_dir``, or its Hub id. Opens no file."""

import os
import re
from pathlib import Path

from gptoss_mlx.errors import ModelNotInstalledError
from gptoss_mlx.home import models_dir
from gptoss_mlx.published import HUB_IDS, download_command


def find_model(model: str | Path) -> Path:
    """Return the folder of an installed model. Raises ModelNotInstalledError, with the commands that install it."""
    text = str(model)
    if isinstance(model, Path) or "/" in text or text.startswith((".", "~")):
        path = Path(os.path.expanduser(text))
        if os.path.isdir(path):  # Path.is_dir raises for a name that is too long or may not be looked up
            return path
    name = {hub.lower(): name for name, hub in HUB_IDS.items()}.get(text.lower(), text)
    installed = models_dir() / name
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and os.path.isdir(installed):
        return installed
    if name == text and os.path.isdir(text):
        return Path(text)
    raise ModelNotInstalledError(_remedy(name, text))


def installed_models() -> list[str]:
    """Return the names of the models under ``models_dir``, sorted."""
    folder = models_dir()
    if not os.path.isdir(folder):
        return []
    return sorted(path.name for path in folder.iterdir() if (path / "manifest.json").is_file())


def _remedy(name: str, text: str) -> str:
    if name == "tiny":
        return "the model 'tiny' is not installed; run: gptoss-mac convert tiny"
    if name in HUB_IDS:
        return (
            f"the model '{name}' is not installed; run: pip install huggingface_hub && {download_command(name)} "
            f"&& gptoss-mac convert gpt-oss-{name}"
        )
    known = ", ".join([*installed_models(), *(n for n in HUB_IDS if n not in installed_models())])
    return f"no model '{text}': neither a folder nor an installed name; known are {known}"
