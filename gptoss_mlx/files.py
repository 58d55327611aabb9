"""Writing a file whole or not at all, and the room that files take. Knows nothing of their content."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to. Afterwards sync the file and move it to ``path``, or remove it after an error. It lies
    in a new folder beside ``path``, where no other process writes. Only the user can read it. Raises OSError."""
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


def nbytes_on_disk(*folders: Path) -> int:
    """Return the bytes that the files in and below folders take. Files with holes take fewer than their size, and those
    that another process removes meanwhile take nothing."""
    paths = {os.path.join(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names}
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += os.lstat(path).st_blocks * 512
    return total
