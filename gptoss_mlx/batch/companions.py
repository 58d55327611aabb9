"""What lies beside a file of answers, and whether what is found there is a run's own: nothing else may be touched.

Beside ``OUT.jsonl`` lie ``OUT.run.json``, the note of what it answers, and ``OUT.errors.jsonl`` where lines could not
be answered. A note is known by what it says, errors by every line of theirs. Reads only; ``answers`` writes.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import StorageError, UsageError

RUN_RECORD = "run.json"
ERRORS = "errors.jsonl"
_AWAY = "move it away, or choose another --out"


def beside(out: Path, what: str) -> Path:
    """``answers.jsonl`` to ``answers.WHAT``."""
    stem = out.with_suffix("") if out.suffix == ".jsonl" else out
    return stem.with_name(f"{stem.name}.{what}")


def check_output(out: Path, source: os.stat_result | None = None) -> None:
    """Raises UsageError or StorageError when a run that answers into ``out`` would write what is not its own.

    ``source`` is the input's status: a link, a second name or standard input is known by it too.
    """
    if out.name.endswith((f".{RUN_RECORD}", f".{ERRORS}")):
        raise UsageError(f"{out}: such names are for what lies beside a batch's answers; choose another --out")
    _check_kind(out, source)
    for path in (beside(out, RUN_RECORD), beside(out, ERRORS)):
        _check_kind(path, source)
    read_run_record(out)
    _check_errors(beside(out, ERRORS))


def read_run_record(out: Path) -> dict[str, Any] | None:
    """What is noted beside ``out``; None where nothing is. Raises StorageError for what is no note of its own."""
    path = beside(out, RUN_RECORD)
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); {_AWAY}") from error
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in ("run", "fixed")):
        raise StorageError(f"{path}: is not, or no more, a batch's note of what {out.name} answers; {_AWAY}")
    if record.get("out", out.name) != out.name:
        raise StorageError(f"{path}: belongs to the answers in {str(record['out'])[:80]}; choose another --out")
    return record


def is_torn(line: bytes, beginning: bytes) -> bool:
    """Whether a killed process or a power cut leaves this of a line that begins so: a part, or zeros in its place."""
    return not line.endswith(b"\n") and beginning.startswith(line.rstrip(b"\0")[: len(beginning)])


def _check_kind(path: Path, source: os.stat_result | None) -> None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be used ({error.strerror}); choose another --out") from error
    if source is not None and os.path.samestat(status, source):
        raise UsageError(f"{path}: is the input itself, which would be written to; choose another --out")
    if stat.S_ISLNK(status.st_mode):
        raise StorageError(f"{path}: is a link, and a batch follows none; {_AWAY}")
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path}: is no ordinary file; choose another --out")


def _check_errors(path: Path) -> None:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not is_torn(line, b'{"line":') and not _is_error(line):
                    raise StorageError(f"{path}: line {number} is none that a batch has written there; {_AWAY}")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); {_AWAY}") from error


def _is_error(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(record, dict)
        and isinstance(record.get("line"), int)
        and isinstance(record.get("error"), dict)
        and {"code", "message"} <= record["error"].keys()
    )
