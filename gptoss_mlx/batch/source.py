"""The input: one request a line, in any of three forms, read as a stream and never held whole.

``jsonl`` holds OpenAI Batch lines (``custom_id``, ``method``, ``url``, ``body``) and plain ones (``id``, and ``prompt``
or ``messages``), ``csv`` a header with ``prompt`` and perhaps ``id``, ``text`` one prompt a line. Blank lines are none.
A line that cannot be read is given out as such, with the reason; it does not end the reading.
"""

import csv
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gptoss_mlx.errors import UsageError

Form = Literal["jsonl", "csv", "text"]
Kind = Literal["chat", "responses", "plain"]

MAX_LINE = 16 << 20
"""Bytes. A prompt that fills the longest context takes less than 1 MB of text."""

SUFFIXES: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
ENDPOINTS: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A request. ``id`` is as given, or ``line-N``; ``body`` what the endpoint takes; a plain line is its own body."""

    number: int
    id: str | int
    kind: Kind
    body: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """A line that is no request, and why. Its id too, if that much could be read."""

    number: int
    id: str | int
    kind: Kind
    problem: str


@dataclass(frozen=True)
class Survey:
    """What a first reading tells. ``sha256`` is over the bytes."""

    lines: int
    sha256: str


class _Bad(Exception):
    pass


@dataclass
class Source:
    """An input that can be read from the beginning as often as needed."""

    name: str
    file: BinaryIO
    form: Form
    delimiter: str = ","
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[Line | BadLine]:
        self.file.seek(0)
        return {"jsonl": self._jsonl, "csv": self._csv, "text": self._text}[self.form]()

    def survey(self) -> Survey:
        """Read it all once. Raises UsageError when an id occurs twice, or there is nothing at all."""
        self.file.seek(0)
        sha256 = hashlib.sha256()
        while block := self.file.read(1 << 20):
            sha256.update(block)
        seen: dict[str, int] = {}
        for line in self.lines():
            first = seen.setdefault(str(line.id), line.number)
            if first != line.number:
                raise UsageError(
                    f"{self.name}: lines {first} and {line.number} have the same id {str(line.id)[:80]!r}; "
                    "every id must be there once, or left out"
                )
        if not seen:
            raise UsageError(f"{self.name}: there are no prompts in it")
        return Survey(len(seen), sha256.hexdigest())

    def _raw(self) -> Iterator[tuple[int, bytes | None]]:
        """Physical lines with their numbers; None for one that is too long to hold."""
        number = 0
        while raw := self.file.readline(MAX_LINE + 1):
            number += 1
            whole: bytes | None = raw.removeprefix(_BOM) if number == 1 else raw
            if len(raw) > MAX_LINE:
                whole = None
                while raw and not raw.endswith(b"\n"):
                    raw = self.file.readline(MAX_LINE)
            yield number, whole

    def _jsonl(self) -> Iterator[Line | BadLine]:
        for number, raw in self._raw():
            if raw is not None and not raw.strip():
                continue
            id: str | int = f"line-{number}"
            kind: Kind = "plain"
            try:
                fields = _json_object(_text(raw))
                id, kind = _identity(fields, id)
                yield _request(number, id, kind, fields)
            except _Bad as bad:
                yield BadLine(number, id, kind, str(bad))

    def _text(self) -> Iterator[Line | BadLine]:
        for number, raw in self._raw():
            if raw is not None and not raw.strip():
                continue
            id = f"line-{number}"
            try:
                yield Line(number, id, "plain", {"prompt": _text(raw).strip()})
            except _Bad as bad:
                yield BadLine(number, id, "plain", str(bad))

    def _csv(self) -> Iterator[Line | BadLine]:
        csv.field_size_limit(MAX_LINE)
        too_long: list[int] = []

        def texts() -> Iterator[str]:
            for number, raw in self._raw():
                if raw is None:
                    too_long.append(number)
                yield "\n" if raw is None else raw.decode("utf-8", "surrogateescape")

        rows = csv.reader(texts(), delimiter=self.delimiter, strict=True)
        try:
            columns = [column.strip().lower() for column in next(rows, [])]
        except csv.Error as error:
            raise UsageError(f"{self.name}: the header is no CSV ({error})") from error
        if columns.count("prompt") != 1:
            raise UsageError(f"{self.name}: the header needs one column 'prompt'; it has: {', '.join(columns)[:200]}")
        while True:
            number = rows.line_num + 1
            id: str = f"line-{number}"
            try:
                row = next(rows)
                if any(at >= number for at in too_long):
                    raise _Bad(_too_long())
                if not any(field.strip() for field in row):
                    continue
                if len(row) != len(columns):
                    raise _Bad(f"it has {len(row)} fields, the header {len(columns)}; quote fields that hold commas")
                fields = dict(zip(columns, row, strict=True))
                _utf8(",".join(row))
                yield Line(number, fields.get("id", "").strip() or id, "plain", {"prompt": fields["prompt"]})
            except StopIteration:
                return
            except (csv.Error, _Bad) as error:
                yield BadLine(number, id, "plain", str(error))


@contextmanager
def open_source(name: str, form: Form | None = None) -> Iterator[Source]:
    """Open a file, or standard input for ``-``. ``form`` settles what its name and content would otherwise.

    What cannot be read twice is copied to a temporary file first. Raises UsageError.
    """
    try:
        opened = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); give a file of prompts, or -") from error
    with opened:
        if opened.seekable() and name != "-":
            yield _recognised(name, opened, form)
            return
        if opened.isatty():
            raise UsageError("nothing is piped in; give a file, or pipe prompts to -")
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(opened, copy)
            yield _recognised("standard input" if name == "-" else name, copy, form)


def _recognised(name: str, file: BinaryIO, form: Form | None) -> Source:
    suffix = Path(name).suffix.lower()
    file.seek(0)
    start = file.read(1 << 16).removeprefix(_BOM).lstrip()
    looks = _looks_like(start)
    if form is None and suffix not in SUFFIXES and re.match(rb"\[\s*\{", start):
        raise UsageError(f"{name}: begins as a JSON array; write one object per line, as `jq -c '.[]'` does")
    by_name = SUFFIXES.get(suffix)
    chosen = form or by_name or looks
    notes = []
    if form is None and by_name is None:
        notes.append(f"{name}: read as {chosen}, by its content; --format says otherwise")
    elif form is None and looks != by_name and start and not (by_name == "csv" and looks == "text"):
        notes.append(f"{name}: looks like {looks}, read as {by_name} because of its name; --format says otherwise")
    return Source(name, file, chosen, "\t" if suffix == ".tsv" else ",", tuple(notes))


def _looks_like(start: bytes) -> Form:
    if start.startswith(b"{"):
        return "jsonl"
    header = start.split(b"\n", 1)[0].decode("utf-8", "replace")
    columns = [column.strip().strip('"').lower() for column in header.split(",")]
    return "csv" if "prompt" in columns else "text"


def _too_long() -> str:
    return f"it is longer than {MAX_LINE >> 20} MiB"


def _text(raw: bytes | None) -> str:
    if raw is None:
        raise _Bad(_too_long())
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _Bad(f"it is not UTF-8 ({error.reason} at byte {error.start})") from error


def _utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Bad("it is not UTF-8, or holds half a surrogate pair") from error


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise _Bad("it is nested too deeply") from error
    except ValueError as error:
        raise _Bad(f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _Bad("it is JSON, but no object")
    return fields


def _identity(fields: dict[str, Any], otherwise: str | int) -> tuple[str | int, Kind]:
    """The id and the kind of line, before anything else may turn out to be wrong with it."""
    batch = "custom_id" in fields or "body" in fields or "url" in fields
    kind = ENDPOINTS.get(str(fields.get("url")), "chat") if batch else "plain"
    id = fields.get("custom_id" if batch else "id")
    if id is None:
        return otherwise, kind
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise _Bad("its id must be a string that is not empty, or a whole number")
    _utf8(str(id))
    return id, kind


def _request(number: int, id: str | int, kind: Kind, fields: dict[str, Any]) -> Line:
    if kind == "plain":
        if ("prompt" in fields) == ("messages" in fields):
            raise _Bad("it needs either prompt or messages, or custom_id, method, url and body")
        return Line(number, id, kind, {name: value for name, value in fields.items() if name != "id"})
    if fields.get("method") != "POST":
        raise _Bad("its method must be POST")
    if fields.get("url") not in ENDPOINTS:
        raise _Bad(f"its url must be one of {', '.join(ENDPOINTS)}")
    if not isinstance(fields.get("body"), dict):
        raise _Bad("its body must be an object")
    return Line(number, id, kind, fields["body"])
