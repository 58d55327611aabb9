"""The output: answers kept whole, whatever happens, and what is needed to go on after a stop.

An answer is appended in one write, so a killed process leaves every answer it finished. The file is synced to disk once
a second and at the end: after a power cut the last second's answers may be missing, or the last line torn. Opening cuts
off a line without its end; its prompt is answered again. All else stays as it is found, or is refused.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptoss_mlx.batch.companions import ERRORS, RUN_RECORD, beside, check_output, is_torn, read_run_record
from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.files import replaced_whole

VERSION = 1
SYNC_SECONDS = 1.0
ID_FIELDS = (("custom_id", "response"), ("id", "answer"))
"""The id of each kind of answer and what an answer has beside it: an OpenAI line's own ``id`` is another thing."""


class Answers:
    """The answers' file, open for one process alone. ``answered`` holds the ids that need no answer any more.

    ``run`` describes what is answered, and how; ``fixed`` are values that a run begun earlier keeps instead of those
    given. Raises UsageError when the file answers something else, StorageError when it cannot be used or what lies
    there is not this run's.
    """

    def __init__(self, path: Path, run: dict[str, Any], fixed: dict[str, Any]) -> None:
        self.path = path
        self.answered: set[str] = set()
        self.fixed = fixed
        self._synced = time.monotonic()
        check_output(path)
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            self._lock()
            self._resume(run)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: dict[str, Any]) -> None:
        """One whole line. Raises StorageError; what was written of it is then cut off when the file is next opened."""
        with _storage_errors(self.path):
            _write(self._file, _line(record))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        with _storage_errors(self.path):
            os.fsync(self._file)
            os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{self.path}: another batch is writing it; wait, or choose another --out") from error

    def _resume(self, run: dict[str, Any]) -> None:
        """Take up what is there. Nothing in a file is touched before it is known to be one of ours."""
        run = {"version": VERSION} | run
        record = beside(self.path, RUN_RECORD)
        before = read_run_record(self.path)
        if before is None and os.fstat(self._file).st_size:
            raise StorageError(
                f"{self.path}: exists, and {record.name} beside it, which would say what it answers, is missing; "
                "choose another --out, or move it away"
            )
        whole = self._read()
        if before is not None and self.answered:
            _same(self.path, before["run"], run)
            self.fixed = before["fixed"]
        else:
            with _storage_errors(record), replaced_whole(record) as partial:
                described = {"out": self.path.name, "run": run, "fixed": self.fixed}
                partial.write_text(json.dumps(described, indent=2) + "\n", encoding="ascii")
        with _storage_errors(self.path):
            os.ftruncate(self._file, whole)

    def _read(self) -> int:
        """Take in the ids of all whole lines; how many bytes those are. A line without its end is none."""
        whole = 0
        with _storage_errors(self.path), open(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if is_torn(line, b'{"id":'):
                    break
                id = _answered_id(line)
                if id is None:
                    raise StorageError(
                        f"{self.path}: line {number} is no answer of a batch; repair or remove it, or choose another "
                        "--out"
                    )
                if id in self.answered:
                    raise StorageError(f"{self.path}: {id[:80]!r} is answered twice; remove line {number}")
                self.answered.add(id)
                whole += len(line)
        return whole


class Errors:
    """The lines that could not be answered. Found anew at each run, so the file is that run's; none without errors.

    Raises StorageError when there is a file that no run has written.
    """

    def __init__(self, out: Path) -> None:
        self.path = beside(out, ERRORS)
        self.count = 0
        self._file: int | None = None
        check_output(out)
        with _storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def append(self, record: dict[str, Any]) -> None:
        with _storage_errors(self.path):
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            _write(self._file, _line(record))
        self.count += 1

    def close(self) -> None:
        if self._file is not None:
            with _storage_errors(self.path):
                os.close(self._file)


@contextmanager
def closing(*files: Answers | Errors) -> Iterator[None]:
    try:
        yield
    finally:
        for file in files:
            file.close()


def _line(record: dict[str, Any]) -> bytes:
    """Text that UTF-8 cannot hold, half a surrogate pair, becomes a question mark."""
    return (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "replace")


def _write(file: int, data: bytes) -> None:
    while data:  # a disk that fills up takes part of it, and the next write says so
        data = data[os.write(file, data) :]


def _answered_id(line: bytes) -> str | None:
    """None for a line that is no answer."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return next((str(record[id]) for id, answer in ID_FIELDS if id in record and answer in record), None)


def _same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            was, new = (json.dumps(run.get(name), ensure_ascii=False) for run in (before, now))
            what = "the input is another" if name == "input" else f"{name} was {was[:80]}, now it is {new[:80]}"
            raise UsageError(
                f"{path} holds answers of an earlier run, and {what}; go on with what it was, or choose another --out"
            )


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or path}: cannot be written ({error.strerror}); free some space or choose another "
            "--out, then run the same command again to go on"
        ) from error
