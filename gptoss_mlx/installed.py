"""The models installed on this machine: where one lies, which is the default, and how one is removed.

A model is found by its path, its name under ``home.models_dir``, or a published model's usual names. Of a model only
file names are looked at.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

from gptoss_mlx.errors import ModelNotInstalledError, NotConvertedError, StorageError
from gptoss_mlx.files import lock, replaced_whole
from gptoss_mlx.home import (
    BUNDLED,
    DOWNLOAD,
    default_model_file,
    hidden_folder,
    model_name,
    models_dir,
    name_for_hub_id,
)
from gptoss_mlx.published import HUB_IDS, is_hub_id, published_name

VARIABLE = "GPTOSS_MAC_MODEL"
MANIFEST = "manifest.json"


def find_model(model: str | Path) -> Path:
    """Return the folder of an installed model.

    Raises NotConvertedError for a checkpoint's folder or GGUF file, else ModelNotInstalledError, with the commands that
    help.
    """
    text = str(model)
    path = Path(os.path.expanduser(text))
    is_folder = os.path.isdir(path)  # Path.is_dir raises for a name that is too long or may not be looked up
    if is_folder and (isinstance(model, Path) or "/" in text or text.startswith((".", "~"))):
        return _converted(path)
    name = name_for_hub_id(text) if is_hub_id(text) else published_name(text) or text
    if _is_name(name) and os.path.isdir(installed := models_dir() / name):
        return _converted(installed)
    if is_folder or _is_checkpoint(path):
        return _converted(path)
    raise ModelNotInstalledError(_remedy(name, text))


def installed_models() -> list[str]:
    """Return the names of the models under ``models_dir``, sorted."""
    folder = models_dir()
    if not os.path.isdir(folder):
        return []
    return sorted(path.name for path in folder.iterdir() if _is_name(path.name) and (path / MANIFEST).is_file())


def unfinished_models() -> list[str]:
    """Return the names of the models whose download under ``models_dir`` has begun and not ended, sorted."""
    folder = models_dir()
    if not os.path.isdir(folder):
        return []
    names = [path.name.removesuffix(".partial")[1:] for path in folder.glob(".*.partial")]
    return sorted(name for name in names if _is_name(name) and (hidden_folder(folder / name) / DOWNLOAD).is_dir())


def check_installed(name: str) -> None:
    """Raise ModelNotInstalledError unless there is something of that very name under ``models_dir``: a model, a part of
    one, an empty folder, or a link to nothing. The last two would keep a model of that name from being made."""
    if not (
        name in installed_models() or name in unfinished_models() or (_is_name(name) and _is_void(models_dir() / name))
    ):
        raise ModelNotInstalledError(
            f"no model '{name}' in {models_dir()}; `gptoss-mac models list` shows those there are"
        )


def remove_model(name: str) -> None:
    """Delete an installed model, and forget it as the default. Raises ModelNotInstalledError and StorageError.

    It is renamed first, so that a process killed in between leaves nothing under the model's name, only a hidden folder
    that the next removal deletes. Where a link stands under the name, only the link is deleted. Of a model that is not
    installed, what has been downloaded is deleted.
    """
    check_installed(name)
    folder = models_dir() / name
    try:
        if not os.path.lexists(folder):
            _remove_unfinished(hidden_folder(folder))
            return
        if _stored_default() == name:
            default_model_file().unlink()
        if folder.is_symlink():
            folder.unlink()
            return
        hidden = folder.with_name(f".{name}.removed")
        if os.path.lexists(hidden):
            shutil.rmtree(hidden)
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: cannot be removed ({error.strerror})") from error


def _is_void(path: Path) -> bool:
    return (path.is_symlink() and not path.exists()) or (path.is_dir() and not any(path.iterdir()))


def _remove_unfinished(hidden: Path) -> None:
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(descriptor)
    except BlockingIOError:
        raise StorageError(f"{hidden}: another process is filling it; stop that first") from None
    finally:
        os.close(descriptor)
    shutil.rmtree(hidden)


def lasting_name(folder: Path) -> str:
    """Return what names a model folder from anywhere: its name if it is installed by name, else its absolute path."""
    folder = Path(os.path.abspath(folder))
    return folder.name if folder.parent == Path(os.path.abspath(models_dir())) else str(folder)


def default_model() -> str:
    """Return the model that is meant where none is named: that of $GPTOSS_MAC_MODEL, else the stored one, else the only
    one installed, else "20b". The bundled model counts only if it is the only one."""
    if chosen := chosen_model():
        return chosen
    names = installed_models()
    names = [name for name in names if name != BUNDLED] or names
    return names[0] if len(names) == 1 else "20b"


def chosen_model() -> str | None:
    """Return the model that the user chose for when none is named: that of $GPTOSS_MAC_MODEL, else the stored one, or
    None."""
    return os.environ.get(VARIABLE) or _stored_default()


def set_default_model(model: str) -> str:
    """Make a model the default, and return the lasting name that is stored.

    Raises ModelNotInstalledError if there is none, StorageError if it cannot be stored.
    """
    stored = model if model == BUNDLED else lasting_name(find_model(model))  # that one is installed when first used
    file = default_model_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replaced_whole(file) as partial:
            partial.write_bytes(os.fsencode(stored))
    except OSError as error:
        raise StorageError(f"{file}: cannot be written ({error.strerror}); choose another GPTOSS_MAC_HOME") from error
    return stored


def _stored_default() -> str | None:
    try:
        return os.fsdecode(default_model_file().read_bytes()).rstrip("\n") or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def _converted(folder: Path) -> Path:
    """Return ``folder``. Raises NotConvertedError if it looks like a checkpoint rather than a model folder."""
    if not os.path.lexists(folder / MANIFEST) and _is_checkpoint(folder):
        source, name = shlex.quote(str(folder)), model_name(folder)
        if name in installed_models():
            raise ModelNotInstalledError(
                f"{folder}: is a checkpoint, and a model '{name}' is installed; `gptoss-mac chat --model {name}` opens "
                f"that one, `gptoss-mac convert {source} --out FOLDER` makes another"
            )
        raise NotConvertedError(
            f"{folder}: is a checkpoint, which must be converted once; run: gptoss-mac convert {source} "
            f"&& gptoss-mac chat --model {name}",
            str(folder),
        )
    return folder


def _is_checkpoint(path: Path) -> bool:
    if not os.path.isdir(path):
        return path.suffix == ".gguf" and os.path.isfile(path)
    places = (place for place in (path, path / "original") if os.path.isfile(place / "config.json"))
    return any(any(place.glob("*.safetensors")) for place in places) or any(path.glob("*.gguf"))


def _remedy(name: str, text: str) -> str:
    if name == BUNDLED:
        return "the model 'tiny' is not installed; run: gptoss-mac convert tiny"
    installed = installed_models()
    if name in HUB_IDS:
        others = f" (installed: {', '.join(installed)})" if installed else ""
        return (
            f"the model '{name}' is not installed{others}; to download and convert it, run: gptoss-mac convert {name}"
        )
    if is_hub_id(text):
        return (
            f"no model '{text}': neither a folder nor installed; to get it from the Hub, run: gptoss-mac convert {text}"
        )
    known = ", ".join([*installed, *(n for n in HUB_IDS if n not in installed)])
    return f"no model '{text}': neither a folder nor an installed name; known are {known}"
