"""When an installed model was last used, and when it was last verified. Two small files in the model's folder.

They go where the model goes, and a model that is converted again has none. Only models under ``home.models_dir`` have
them. No other file of the folder is read or written. Each file has one fact, so that two processes cannot undo what the
other has written.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gptoss_mlx.files import replaced_whole
from gptoss_mlx.installed import lasting_name

LAST_USED = "last-used"
VERIFIED = "verified"
FILES = (LAST_USED, VERIFIED)


@dataclass(frozen=True)
class Record:
    """Times in UTC, or None for never."""

    last_used: datetime | None
    verified: datetime | None


def read_record(folder: Path) -> Record:
    """Return a model's record. A file that is damaged or cannot be read counts as absent."""
    return Record(_read(folder / LAST_USED), _read(folder / VERIFIED))


def note_use(folder: Path) -> None:
    """Note that the model is used now. What cannot be written, as on a read-only disk, is not noted."""
    if _is_installed(folder):
        with suppress(OSError):
            _write(folder / LAST_USED)


def note_verified(folder: Path) -> None:
    """Note that every byte of the model was compared now. Raises OSError."""
    if _is_installed(folder):
        _write(folder / VERIFIED)


def forget_verified(folder: Path) -> None:
    """Note that the model is not verified. Raises OSError."""
    if _is_installed(folder):
        (folder / VERIFIED).unlink(missing_ok=True)


def _is_installed(folder: Path) -> bool:
    return lasting_name(folder) == folder.name


def _read(path: Path) -> datetime | None:
    with suppress(OSError, ValueError, OverflowError):
        time = datetime.fromisoformat(path.read_bytes()[:64].decode("ascii").strip())
        return time.astimezone(UTC)
    return None


def _write(path: Path) -> None:
    with replaced_whole(path) as partial:
        partial.write_text(f"{datetime.now(UTC).isoformat(timespec='seconds')}\n", "ascii")
