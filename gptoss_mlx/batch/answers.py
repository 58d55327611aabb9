"""Write the answers and the errors of a batch, and resume an answers file that an earlier run left.

``Answers`` appends each answer in one write, so a killed process leaves every answer that it finished. An append syncs
the file to disk if the last sync is more than a second old, and ``close`` syncs it too. After a power cut the answers
since the last sync may be missing, or the last line may be torn. Opening the file cuts off a torn last line, and the
run answers its prompt again. Every other content is kept or refused. The module knows nothing of the input, nor of the
model.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptoss_mlx.batch.companions import ERRORS, RUN_RECORD, beside, check_output, is_torn, json_object, read_run_record
from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.files import replaced_whole

VERSION = 1
SYNC_SECONDS = 1.0
ID_FIELDS = (("custom_id", "response"), ("id", "answer"))
"""Names of the id and of the content in each shape of answer. OpenAI's shape comes first, because it has an ``id`` too,
which is not the line's."""


class Answers:
    """The answers file, locked for this process. ``answered`` holds the ids of the answers that were in it.

    ``described`` says what is answered, and how. ``fixed`` are values that a resumed run takes from the run record
    instead. Both are written to the run record beside the file.

    Raises UsageError when the file holds answers of a run that is described otherwise, and StorageError when it cannot
    be used or no batch wrote what is in it.
    """

    def __init__(self, path: Path, described: dict[str, Any], fixed: dict[str, Any]) -> None:
        self.path = path
        self.answered: dict[str, int] = {}  # where in the file each id's answer begins
        self.fixed = fixed
        self._synced = time.monotonic()
        check_output(path)
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            self._lock()
            self._resume(described)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Write ``record`` as one line. Raises StorageError; the next run then cuts off the part that was written."""
        with _storage_errors(self.path):
            _write(self._file, _line(record))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def find(self, id: str) -> dict[str, Any] | None:
        """Return the answer with an id, or None, once ``reread`` was called. Raises StorageError."""
        if (at := self.answered.get(id)) is None:
            return None
        with _storage_errors(self.path), open(os.dup(self._file), "rb") as file:
            file.seek(at)
            return json_object(file.readline())

    def reread(self) -> None:
        """Read which answers are in the file by now."""
        self.answered.clear()
        self._read()

    def close(self) -> None:
        """Sync the file to disk and unlock it."""
        with _storage_errors(self.path):
            os.fsync(self._file)
            os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{self.path}: another batch is writing to it; wait, or choose another --out") from error

    def _resume(self, described: dict[str, Any]) -> None:
        """Read what an earlier run left, then cut off a torn line. Change no file before all of it is checked."""
        described = {"version": VERSION} | described
        record = beside(self.path, RUN_RECORD)
        before = read_run_record(self.path)
        if before is None and os.fstat(self._file).st_size:
            raise StorageError(
                f"{self.path}: exists, but {record.name}, which says what it answers, is missing beside it; "
                "choose another --out, or move it away"
            )
        whole = self._read()
        if before is not None and self.answered:
            _check_same(self.path, before["run"], described)
            self.fixed = before["fixed"]
        else:
            with _storage_errors(record), replaced_whole(record) as partial:
                content = {"out": self.path.name, "run": described, "fixed": self.fixed}
                partial.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")
        with _storage_errors(self.path):
            os.ftruncate(self._file, whole)

    def _read(self) -> int:
        """Read the ids of all lines but a torn last one into ``answered``. Return the bytes of these lines."""
        whole = 0
        with _storage_errors(self.path), open(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if is_torn(line, b'{"id":'):
                    break
                id = _answered_id(line)
                if id is None:
                    raise StorageError(
                        f"{self.path}: line {number} is not an answer of a batch; repair or remove it, or choose "
                        "another --out"
                    )
                if id in self.answered:
                    raise StorageError(f"{self.path}: {id[:80]!r} is answered twice; remove line {number}")
                self.answered[id] = whole
                whole += len(line)
        return whole


class Errors:
    """The errors file: one line for each input line that could not be answered.

    Every run starts it again, because it meets the same bad lines again. A run without errors leaves no file.
    ``before`` are the numbers of the lines that were in it. Raises StorageError when the file exists and no run wrote
    it.
    """

    def __init__(self, out: Path) -> None:
        self.path = beside(out, ERRORS)
        self._file: int | None = None
        check_output(out)
        self.before = frozenset(one["line"] for one in self.records())
        with _storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def append(self, record: dict[str, Any]) -> None:
        """Write ``record`` as one line. Raises StorageError."""
        with _storage_errors(self.path):
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            _write(self._file, _line(record))

    def records(self) -> list[dict[str, Any]]:
        """Return what is in the file. Raises StorageError."""
        with _storage_errors(self.path):
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [record for record in map(json_object, lines) if record is not None]

    def close(self) -> None:
        if self._file is not None:
            with _storage_errors(self.path):
                os.close(self._file)


def _line(record: dict[str, Any]) -> bytes:
    """Return ``record`` as a line of JSON in UTF-8. A lone surrogate, which UTF-8 cannot hold, becomes ``?``."""
    return (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "replace")


def _write(file: int, data: bytes) -> None:
    while data:  # a disk that fills up takes a part, and the next write raises
        data = data[os.write(file, data) :]


def _answered_id(line: bytes) -> str | None:
    """Return the id of the answer in ``line``, or None when ``line`` is not an answer."""
    record = json_object(line) or {}
    return next((str(record[id]) for id, answer in ID_FIELDS if id in record and answer in record), None)


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            was, new = (json.dumps(one.get(name), ensure_ascii=False) for one in (before, now))
            what = "its input was another" if name == "input" else f"{name} was {was[:80]}, now it is {new[:80]}"
            raise UsageError(
                f"{path} holds answers of an earlier run, but {what}; use the same, or choose another --out"
            )


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or path}: cannot be written ({error.strerror}); free some space or choose another "
            "--out, then run the same command again to resume"
        ) from error
