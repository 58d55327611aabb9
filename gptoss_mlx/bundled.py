"""The bundled small model, ``tiny``. The first process that asks for it converts it into the user's cache.

Knows where the model lies and how to install it. Loads no weights.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptoss_mlx.errors import CheckpointError, ModelFolderError, StorageError
from gptoss_mlx.files import lock
from gptoss_mlx.home import BUNDLED, models_dir


def checkpoint() -> Path:
    """Return the folder of the bundled checkpoint, which has Hugging Face's layout."""
    return Path(__file__).parent / "tiny" / "checkpoint"


def install_tiny() -> None:
    """Convert the bundled checkpoint, unless it is installed already. Replace a model made from another version of it.
    Raises StorageError if the model cannot be written, or if a folder that we did not make stands in its place."""
    from convert import convert

    destination = models_dir() / BUNDLED
    if _is_current(destination):
        return
    with installing():
        _remove(destination.with_name(f".{BUNDLED}.replaced"))
        if _is_current(destination):  # another process has installed it meanwhile
            return
        if os.path.lexists(destination):
            if not _is_ours(destination):
                raise StorageError(
                    f"{destination}: is not the bundled model; move it away, or give --model its whole path"
                )
            # It is renamed first, so that a process killed while removing it leaves nothing under the model's name.
            destination.rename(destination.with_name(f".{BUNDLED}.replaced"))
            _remove(destination.with_name(f".{BUNDLED}.replaced"))
        convert(checkpoint(), destination)


@contextmanager
def installing() -> Iterator[None]:
    """Hold the lock for installing ``tiny``. Wait until no other process holds it. Raises StorageError."""
    path = models_dir() / f".{BUNDLED}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another GPTOSS_MAC_HOME") from error
    with file:
        try:
            lock(file.fileno(), wait=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be locked ({error.strerror})") from error
        yield


def _remove(folder: Path) -> None:
    if os.path.lexists(folder):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be removed ({error.strerror}); remove {folder}") from error


def _is_current(folder: Path) -> bool:
    """Return whether ``folder`` holds the model made from this very checkpoint."""
    from gptoss_mlx.model_folder import ModelFolder

    try:
        source = ModelFolder.open(folder).manifest.get("source")
    except ModelFolderError:
        return False
    return isinstance(source, dict) and source.get("sha256") == _tensor_hashes()


def _is_ours(folder: Path) -> bool:
    """Return whether ``folder`` was made from a version of the bundled checkpoint, even if damaged or half removed."""
    from gptoss_mlx import records
    from gptoss_mlx.model_folder import layout

    if folder.is_symlink() or not folder.is_dir():
        return False
    manifest = folder / layout.MANIFEST
    if manifest.exists():
        try:
            return json.loads(manifest.read_bytes())["source"]["folder"] == checkpoint().name
        except (OSError, ValueError, TypeError, KeyError):
            return False
    small = {layout.CONFIG, layout.GENERATION, layout.TOKENIZER, layout.INDEX, *records.FILES}
    shard = re.compile(r"model-(embedding|head|layer-\d{3})\.safetensors")
    return all(name in small or shard.fullmatch(name) for name in os.listdir(folder))


def _tensor_hashes() -> dict[str, str]:
    from gptoss_mlx.model_folder.safetensors import read_header

    path = checkpoint() / "model.safetensors"
    data = path.read_bytes()
    return {
        name: hashlib.sha256(data[tensor.offset : tensor.offset + tensor.nbytes]).hexdigest()
        for name, tensor in read_header(path, CheckpointError, "install gptoss-mac again").items()
    }
