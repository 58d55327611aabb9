"""Writing a file whole or not at all. Knows nothing of what is in it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A path to write to, in a new folder beside ``path`` that no one else can have a file in. Synced and put in its
    place at the end, removed after an error.

    Only the user can read what is written. Raises OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent))
    try:
        partial = folder / path.name
        yield partial
        os.chmod(partial, 0o600)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
