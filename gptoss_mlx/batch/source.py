"""Read the input of a batch: one request a line, in one of three formats, as a stream.

``jsonl`` holds OpenAI Batch lines (``custom_id``, ``method``, ``url``, ``body``) and plain lines (``id``, and either
``prompt`` or ``messages``). ``csv`` has a header with ``prompt`` and optionally ``id``, or any columns, of which a
template makes the prompts. ``text`` has one prompt a line.
Blank lines are skipped. A line that cannot be read becomes a ``BadLine`` with the reason, and reading continues. The
input is copied once, as UTF-8, so that a change of the file does not affect the run. The module knows nothing of what a
body must contain.
"""

import csv
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

from gptoss_mlx.batch.template import Template
from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.text_input import Decoder, Encoding, encoding_of, first_fault, json_without_surrogates

Form = Literal["jsonl", "csv", "text"]
LineKind = Literal["chat", "responses", "plain"]

MAX_LINE = 16 << 20
"""In characters. A prompt that fills the longest context takes less than 1 MB of text."""

MAX_DEPTH = 100
"""Levels of nested arrays and objects. Schemas need a dozen. The limit keeps recursive readers of a body safe."""

SUFFIXES: dict[str, Form] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
ENDPOINTS: dict[str, LineKind] = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}

_BLOCK = 1 << 20
"""Bytes read from the input at a time."""


@dataclass(frozen=True)
class Line:
    """A request. ``id`` is the line's own id, or ``line-N``.

    ``body`` is the endpoint's request body. A plain line's body is the line without its id. ``columns`` are those of a
    line of CSV.
    """

    number: int
    id: str | int
    kind: LineKind
    body: dict[str, Any]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadLine:
    """A line that is not a request, and the reason. ``id`` is the line's own id if it could be read, or ``line-N``.
    ``columns`` are what could be read of a line of CSV, in any number."""

    number: int
    id: str | int
    kind: LineKind
    problem: str
    columns: tuple[str, ...] = ()


class _BadLineError(Exception):
    """The line cannot be read; the message is the reason."""


@dataclass
class Source:
    """An input that can be read several times from its beginning.

    ``copy`` holds the text, with surrogates where ``encoding`` could not decode it. ``sha256`` is of the input's bytes.
    ``status`` is the status of the file it was read from. ``notices`` are for the user. ``template`` makes the prompts
    of CSV, None if a column has them.
    """

    name: str
    copy: TextIO
    form: Form
    encoding: Encoding
    sha256: str
    status: os.stat_result
    delimiter: str = ","
    notices: tuple[str, ...] = ()
    template: Template | None = None

    @property
    def columns(self) -> list[str]:
        """Return the header of CSV as it is written. Raises UsageError."""
        self.copy.seek(0)
        return self._header(csv.reader(self.copy, delimiter=self.delimiter, strict=True))

    def lines(self) -> Iterator[Line | BadLine]:
        """Yield every line from the beginning of the input."""
        self.copy.seek(0)
        return {"jsonl": self._jsonl, "csv": self._csv, "text": self._text}[self.form]()

    def survey(self) -> int:
        """Read the input and return its number of lines. Raises UsageError for an id that occurs twice, or no lines."""
        seen: dict[str, int] = {}
        for line in self.lines():
            first = seen.setdefault(str(line.id), line.number)
            if first != line.number:
                raise UsageError(
                    f"{self.name}: lines {first} and {line.number} have the same id {str(line.id)[:80]!r}; "
                    "give each line an id of its own, or none"
                )
        if not seen:
            raise UsageError(f"{self.name}: contains no prompts")
        return len(seen)

    def _raw(self) -> Iterator[tuple[int, str | None]]:
        """Yield each physical line's number and text. The text of a line over ``MAX_LINE`` is None."""
        for number in count(1):
            line = rest = self.copy.readline(MAX_LINE + 1)
            if not line:
                return
            while len(line) > MAX_LINE and rest and not rest.endswith(("\n", "\r")):
                rest = self.copy.readline(MAX_LINE)
            yield number, line if len(line) <= MAX_LINE else None

    def _jsonl(self) -> Iterator[Line | BadLine]:
        for number, raw in self._raw():
            if raw is not None and not raw.strip():
                continue
            id: str | int = f"line-{number}"
            kind: LineKind = "plain"
            try:
                fields = _json_object(self._whole(raw))
                kind = _kind(fields)
                id = _id(fields, kind, id)
                yield _request(number, id, kind, fields)
            except _BadLineError as bad:
                yield BadLine(number, id, kind, str(bad))

    def _text(self) -> Iterator[Line | BadLine]:
        for number, raw in self._raw():
            if raw is not None and not raw.strip():
                continue
            id = f"line-{number}"
            if raw is None:
                yield BadLine(number, id, "plain", _too_long())
            else:
                yield Line(number, id, "plain", {"prompt": raw.strip()})

    def _whole(self, raw: str | None) -> str:
        if raw is None:
            raise _BadLineError(_too_long())
        fault = first_fault(raw)
        if fault is not None:
            at = len(raw[:fault].encode(self.encoding.name))
            raise _BadLineError(
                f"it is not {self.encoding} from its byte {at} on; the file was read so, {self.encoding.why}"
            )
        return raw

    def _csv(self) -> Iterator[Line | BadLine]:
        csv.field_size_limit(MAX_LINE)
        too_long: list[int] = []

        def texts() -> Iterator[str]:
            for number, raw in self._raw():
                if raw is None:
                    too_long.append(number)
                yield "\n" if raw is None else raw

        rows = csv.reader(texts(), delimiter=self.delimiter, strict=True)
        header = self._header(rows)
        columns = [column.strip().lower() for column in header]
        if columns.count("id") > 1:
            raise UsageError(f"{self.name}: has several columns 'id'; name the others otherwise")
        if self.template is not None:
            self.template.check(header, self.name)
        elif columns.count("prompt") != 1:
            raise UsageError(f"{self.name}: the header needs one column 'prompt'; it has {', '.join(columns)[:200]}")
        while True:
            number = rows.line_num + 1
            id: str = f"line-{number}"
            row: list[str] = []
            try:
                row = next(rows)
                if any(at >= number for at in too_long):
                    raise _BadLineError(_too_long())
                if not any(field.strip() for field in row):
                    continue
                if len(row) != len(columns):
                    raise _BadLineError(
                        f"it has {len(row)} fields, the header {len(columns)}; quote fields that contain commas"
                    )
                fields = dict(zip(columns, row, strict=True))
                prompt = fields["prompt"] if self.template is None else self.template.fill(fields)
                yield Line(number, fields.get("id", "").strip() or id, "plain", {"prompt": prompt}, tuple(row))
            except StopIteration:
                return
            except (csv.Error, _BadLineError) as error:
                yield BadLine(number, id, "plain", str(error), tuple(row))

    def _header(self, rows: Iterator[list[str]]) -> list[str]:
        try:
            header = next(rows, [])
        except csv.Error as error:
            raise UsageError(f"{self.name}: the header is not CSV ({error})") from error
        if not header:
            raise UsageError(f"{self.name}: its first line is empty, where CSV has the names of its columns")
        return header


@contextmanager
def open_source(name: str, form: Form | None = None, template: Template | None = None) -> Iterator[Source]:
    """Open the file ``name``, or standard input for ``-``. ``form`` None means: guess it from the name or the content.
    With a ``template`` it must be CSV.

    Raises UsageError when the file cannot be read or decoded, and StorageError when there is no room for the copy.
    """
    try:
        opened = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UsageError(
            f"{name}: cannot be read ({error.strerror}); give a file of prompts, or - for standard input"
        ) from error
    with opened, tempfile.TemporaryFile() as copy:
        if opened.isatty():
            raise UsageError("nothing is piped in; give a file, or pipe prompts to -")
        if template is not None and form is None and Path(name).suffix.lower() not in SUFFIXES:
            form = "csv"
        source = _copied("standard input" if name == "-" else name, opened, copy, form)
        if template is not None and source.form != "csv":
            raise UsageError(f"{source.name}: is read as {source.form}, and --prompt needs the columns of CSV")
        yield replace(source, template=template)


def _copied(name: str, file: BinaryIO, copy: BinaryIO, form: Form | None) -> Source:
    block = file.read(_BLOCK)
    encoding = encoding_of(block)
    start = Decoder(name, encoding, marking=True).feed(block[: 1 << 16]).lstrip()
    chosen, notices = _recognised(name, start, form)
    decoder = Decoder(name, encoding, marking=chosen == "jsonl")
    sha256 = hashlib.sha256()
    try:
        while block:
            sha256.update(block)
            copy.write(decoder.feed(block).encode("utf-8", "surrogatepass"))
            block = file.read(_BLOCK)
        copy.write(decoder.feed(b"", last=True).encode("utf-8", "surrogatepass"))
        copy.flush()
    except OSError as error:
        place = tempfile.gettempdir()
        raise StorageError(
            f"{name}: cannot be copied to {place} ({error.strerror}); free some space there, or set TMPDIR"
        ) from error
    text = TextIOWrapper(copy, "utf-8", "surrogatepass", newline="")
    delimiter = "\t" if Path(name).suffix.lower() == ".tsv" else ","
    return Source(name, text, chosen, encoding, sha256.hexdigest(), os.fstat(file.fileno()), delimiter, notices)


def _recognised(name: str, start: str, form: Form | None) -> tuple[Form, tuple[str, ...]]:
    """Return the form, and a notice for the user if another form is possible."""
    suffix = Path(name).suffix.lower()
    looks = _looks_like(start)
    if form is None and suffix not in SUFFIXES and re.match(r"\[\s*\{", start):
        raise UsageError(f"{name}: begins as a JSON array; write one object per line, as `jq -c '.[]'` does")
    by_name = SUFFIXES.get(suffix)
    chosen = form or by_name or looks
    if form is None and by_name is None:
        return chosen, (f"{name}: read as {chosen}, guessed from its content; --format overrides this",)
    if form is None and looks != by_name and start and not (by_name == "csv" and looks == "text"):
        notice = f"{name}: looks like {looks}, but read as {by_name} because of its name; --format overrides this"
        return chosen, (notice,)
    return chosen, ()


def _looks_like(start: str) -> Form:
    if start.startswith("{"):
        return "jsonl"
    header = re.split(r"[\r\n]", start, maxsplit=1)[0]
    columns = [column.strip().strip('"').lower() for column in header.split(",")]
    return "csv" if "prompt" in columns else "text"


def _json_object(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise _BadLineError(_too_deep()) from error
    except json.JSONDecodeError as error:
        raise _BadLineError(f"it is not JSON ({error})") from error
    except ValueError as error:
        raise _BadLineError("it contains a number with more digits than can be read") from error
    if not isinstance(fields, dict):
        raise _BadLineError("it is JSON, but not an object")
    return fields


def _kind(fields: dict[str, Any]) -> LineKind:
    if not any(name in fields for name in ("custom_id", "body", "url")):
        return "plain"
    return _endpoint(fields) or "chat"


def _endpoint(fields: dict[str, Any]) -> LineKind | None:
    url = fields.get("url")
    return ENDPOINTS.get(url) if isinstance(url, str) else None


def _id(fields: dict[str, Any], kind: LineKind, otherwise: str | int) -> str | int:
    """Return the line's id, or ``otherwise`` when it has none."""
    id = fields.get("id" if kind == "plain" else "custom_id")
    if id is None:
        return otherwise
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise _BadLineError("its id must be a nonempty string or a whole number")
    if first_fault(str(id)) is not None:
        raise _BadLineError("its id contains half a surrogate pair, which is not text")
    return id


def _request(number: int, id: str | int, kind: LineKind, fields: dict[str, Any]) -> Line:
    if _depth_is_over(MAX_DEPTH, fields):
        raise _BadLineError(_too_deep())
    fields = json_without_surrogates(fields)
    if kind == "plain":
        if ("prompt" in fields) == ("messages" in fields):
            raise _BadLineError("it needs either prompt or messages, or custom_id, method, url and body")
        return Line(number, id, kind, {name: value for name, value in fields.items() if name != "id"})
    if fields.get("method") != "POST":
        raise _BadLineError("its method must be POST")
    if _endpoint(fields) is None:
        raise _BadLineError(f"its url must be one of {', '.join(ENDPOINTS)}")
    if not isinstance(fields.get("body"), dict):
        raise _BadLineError("its body must be an object")
    try:
        json.dumps(fields["body"], allow_nan=False)
    except ValueError as error:  # an answer may repeat the body, and must be JSON
        raise _BadLineError("its body contains NaN or an infinite number, which JSON cannot express") from error
    return Line(number, id, kind, fields["body"])


def _depth_is_over(limit: int, value: Any) -> bool:
    """Return whether ``value`` nests arrays and objects more than ``limit`` levels deep."""
    level = [value]
    for _ in range(limit + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for values in inner for one in values]
    return bool(level)


def _too_deep() -> str:
    return f"its arrays and objects are nested too deeply, more than {MAX_DEPTH}"


def _too_long() -> str:
    return f"it is longer than {MAX_LINE >> 20} Mi characters"
