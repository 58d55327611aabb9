"""Check the answers file and the two files beside it, because a run may only write to files that a batch wrote.

For ``answers.jsonl``, ``answers.run.json`` is the run record, which says what it answers, and ``answers.errors.jsonl``
holds the lines that could not be answered. A run record is recognised by its fields, an errors file by every one of its
lines. This module only reads; ``answers`` writes.
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
    """Return ``answers.WHAT`` for ``answers.jsonl``."""
    stem = out.with_suffix("") if out.suffix == ".jsonl" else out
    return stem.with_name(f"{stem.name}.{what}")


def check_output(out: Path, source: os.stat_result | None = None) -> None:
    """Raise UsageError or StorageError when a run that answers into ``out`` would overwrite a file of the user's.

    ``source`` is the status of the input file. It recognises the input behind a link, a second name or standard input.
    """
    if out.name.endswith((f".{RUN_RECORD}", f".{ERRORS}")):
        raise UsageError(f"{out}: this name is reserved for the files beside a batch's answers; choose another --out")
    _check_file(out, source)
    for path in (beside(out, RUN_RECORD), beside(out, ERRORS)):
        _check_file(path, source)
    read_run_record(out)
    _check_errors(beside(out, ERRORS))


def read_run_record(out: Path) -> dict[str, Any] | None:
    """Return the run record beside ``out``, or None. Raises StorageError when another file has its name."""
    path = beside(out, RUN_RECORD)
    try:
        record = json_object(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); {_AWAY}") from error
    if record is None or not all(isinstance(record.get(part), dict) for part in ("run", "fixed")):
        raise StorageError(f"{path}: is not the run record of {out.name}, or is damaged; {_AWAY}")
    if record.get("out", out.name) != out.name:
        raise StorageError(f"{path}: belongs to the answers in {str(record['out'])[:80]}; choose another --out")
    return record


def json_object(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object in ``data``, or None when it is anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_torn(line: bytes, beginning: bytes) -> bool:
    """Return whether ``line`` has no newline and, without zeros at its end, agrees with ``beginning`` as far as it
    goes. A kill leaves a part of a line, a power cut zeros in its place."""
    return not line.endswith(b"\n") and beginning.startswith(line.rstrip(b"\0")[: len(beginning)])


def _check_file(path: Path, source: os.stat_result | None) -> None:
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be used ({error.strerror}); choose another --out") from error
    if source is not None and os.path.samestat(status, source):
        raise UsageError(f"{path}: is the input itself, which would be overwritten; choose another --out")
    if stat.S_ISLNK(status.st_mode):
        raise StorageError(f"{path}: is a link, which a batch does not follow; {_AWAY}")
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path}: is not an ordinary file; choose another --out")


def _check_errors(path: Path) -> None:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not is_torn(line, b'{"line":') and not _is_error(line):
                    raise StorageError(f"{path}: line {number} was not written by a batch; {_AWAY}")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); {_AWAY}") from error


def _is_error(line: bytes) -> bool:
    record = json_object(line) or {}
    error = record.get("error")
    return isinstance(record.get("line"), int) and isinstance(error, dict) and {"code", "message"} <= error.keys()
