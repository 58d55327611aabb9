"""The output: answers kept whole, whatever happens, and what is needed to go on after a stop.

Beside ``OUT.jsonl`` lie ``OUT.run.json``, which says what it answers, and ``OUT.errors.jsonl`` where lines could not be
answered. An answer is appended in one write, so a killed process leaves every answer it finished. The file is synced
to disk once a second and at the end: after a power cut the last second's answers may be missing, or the last line torn.
Opening cuts such a line off; its prompt is answered again.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import StorageError, UsageError

VERSION = 1
SYNC_SECONDS = 1.0
ID_FIELDS = ("custom_id", "id")
"""In this order: an OpenAI line's own ``id`` is another thing."""


def beside(out: Path, what: str) -> Path:
    """``answers.jsonl`` to ``answers.WHAT``."""
    stem = out.with_suffix("") if out.suffix == ".jsonl" else out
    return stem.with_name(f"{stem.name}.{what}")


class Answers:
    """The answers' file, open for one process alone. ``answered`` holds the ids that need no answer any more.

    ``run`` describes what is answered, and how; ``fixed`` are values that a run begun earlier keeps instead of those
    given. Raises UsageError when the file answers something else, StorageError when it cannot be used.
    """

    def __init__(self, path: Path, run: dict[str, Any], fixed: dict[str, Any]) -> None:
        self.path = path
        self.answered: set[str] = set()
        self.fixed = fixed
        self._synced = time.monotonic()
        with _storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
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
        note = beside(self.path, "run.json")
        size = os.fstat(self._file).st_size
        before = _read_note(note) if size else None
        if size and before is None:
            raise StorageError(
                f"{self.path}: exists, and {note.name} beside it, which would say what it answers, is missing or "
                "damaged; choose another --out, or move it away"
            )
        if before is not None:
            self._read(note)
        if before is not None and self.answered:
            _same(self.path, before["run"], run)
            self.fixed = before["fixed"]
            return
        with _storage_errors(note):
            _replace(note, json.dumps({"run": run, "fixed": self.fixed}, ensure_ascii=False, indent=2) + "\n")

    def _read(self, note: Path) -> None:
        """The ids of all whole lines. A torn end is cut off; damage before the end is for the user to look at."""
        damaged: tuple[int, int] | None = None
        with _storage_errors(self.path), open(os.dup(self._file), "rb") as file:
            file.seek(0)
            at = 0
            for number, line in enumerate(file, 1):
                id = _answered_id(line)
                if id is None and damaged is None:
                    damaged = at, number
                elif id is not None and damaged is not None:
                    raise StorageError(
                        f"{self.path}: line {damaged[1]} is damaged, with whole answers behind it; repair or remove "
                        "that line, then run again"
                    )
                elif id is not None:
                    if id in self.answered:
                        raise StorageError(f"{self.path}: {id[:80]!r} is answered twice; remove line {number}")
                    self.answered.add(id)
                at += len(line)
            if damaged is not None:
                os.ftruncate(self._file, damaged[0])


class Errors:
    """The lines that could not be answered. Found anew at each run, so the file is that run's; none without errors."""

    def __init__(self, out: Path) -> None:
        self.path = beside(out, "errors.jsonl")
        self.count = 0
        self._file: int | None = None
        with _storage_errors(self.path):
            self.path.unlink(missing_ok=True)

    def append(self, record: dict[str, Any]) -> None:
        with _storage_errors(self.path):
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
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
    """None for a line that is not a whole answer."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return next((str(record[field]) for field in ID_FIELDS if field in record), None)


def _read_note(path: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    fine = isinstance(note, dict) and all(isinstance(note.get(part), dict) for part in ("run", "fixed"))
    return note if fine else None


def _same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            was, new = (json.dumps(run.get(name), ensure_ascii=False) for run in (before, now))
            what = "the input is another" if name == "input" else f"{name} was {was[:80]}, now it is {new[:80]}"
            raise UsageError(
                f"{path} holds answers of an earlier run, and {what}; go on with what it was, or choose another --out"
            )


def _replace(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or path}: cannot be written ({error.strerror}); free some space or choose another "
            "--out, then run the same command again to go on"
        ) from error
