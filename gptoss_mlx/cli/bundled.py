"""The bundled small model, ``tiny``: converted into the user's cache when first asked for."""

import hashlib
import json
import shutil
from pathlib import Path

NAME = "tiny"


def checkpoint() -> Path:
    """Where the bundled checkpoint lies, in Hugging Face's layout."""
    import gptoss_mlx

    return Path(gptoss_mlx.__file__).parent / "tiny" / "checkpoint"


def install_tiny() -> None:
    """Convert the bundled checkpoint, unless the cache holds that very one; one made from another is replaced."""
    from convert import convert
    from gptoss_mlx.errors import StorageError
    from gptoss_mlx.home import models_dir

    destination = models_dir() / NAME
    if _is_current(destination):
        return
    if destination.exists():
        if not _is_ours(destination):
            raise StorageError(f"{destination}: is not the bundled model; move it away, or give --model its whole path")
        shutil.rmtree(destination)
    try:
        convert(checkpoint(), destination)
    except StorageError:
        if not _is_current(destination):  # another process may have been quicker
            raise


def _is_current(folder: Path) -> bool:
    from gptoss_mlx.errors import ModelFolderError
    from gptoss_mlx.model_folder import ModelFolder

    try:
        return ModelFolder.open(folder).manifest["source"].get("sha256") == _tensor_hashes()
    except ModelFolderError:
        return False


def _is_ours(folder: Path) -> bool:
    """Whether it was made from some version of the bundled checkpoint, damaged or not."""
    try:
        return json.loads((folder / "manifest.json").read_bytes())["source"]["folder"] == checkpoint().name
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _tensor_hashes() -> dict[str, str]:
    from gptoss_mlx.errors import CheckpointError
    from gptoss_mlx.model_folder.safetensors import read_header

    path = checkpoint() / "model.safetensors"
    data = path.read_bytes()
    return {
        name: hashlib.sha256(data[tensor.offset : tensor.offset + tensor.nbytes]).hexdigest()
        for name, tensor in read_header(path, CheckpointError, "install gptoss-mac again").items()
    }
