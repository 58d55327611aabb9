"""A batch's answers as CSV: the input's columns, those of the answers, and why a line has none.

It is written from the answers file once a run ends, so that a table is always whole.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.source import Source
from gptoss_mlx.errors import StorageError
from gptoss_mlx.files import replaced_whole

ANSWER = "answer"
ERROR = "error"


def fields_of(schema: Any) -> list[str]:
    """Return the columns of answers under a schema: the properties that it declares, or one for the whole answer."""
    held = schema.get("properties") if isinstance(schema, dict) else None
    return list(held) if isinstance(held, dict) and held else [ANSWER]


def header_of(columns: Sequence[str], fields: Sequence[str]) -> list[str]:
    """Return the header. A column of an answer whose name is taken gets ``answer.`` before it, once or more."""
    header = [*columns]
    for name in (*fields, ERROR):
        while name in header:
            name = f"{ANSWER}.{name}"
        header.append(name)
    return header


def check_table(path: Path, header: Sequence[str]) -> None:
    """Raise StorageError for a file that is no table of such a run."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(_row(header)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be used ({error.strerror}); choose another --out") from error
    if begins != _row(header):
        raise StorageError(f"{path}: is not the table of such a batch; move it away, or choose another --out")


def write_table(
    path: Path, source: Source, answers: Answers, errors: Errors, fields: Sequence[str], most: int | None
) -> None:
    """Write a row for each of the first ``most`` lines of the input, None for all, in their order."""
    columns = source.columns
    problems = {one["line"]: one["error"]["message"] for one in errors.records()}
    try:
        with replaced_whole(path) as partial, partial.open("wb") as file:
            file.write(_row(header_of(columns, fields)))
            for number, line in enumerate(source.lines(), 1):
                if most is not None and number > most:
                    break
                given = [*line.columns, *[""] * len(columns)][: len(columns)]
                record = answers.find(str(line.id))
                answer = [""] * len(fields) if record is None else _cells(record[ANSWER], fields)
                file.write(_row([*given, *answer, "" if record else problems.get(line.number, "")]))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); run the same command again") from error


def _cells(answer: Any, fields: Sequence[str]) -> list[str]:
    """Return an answer's cells. What is no text becomes JSON, what is not there or null is empty."""
    values: Mapping[str, Any] = answer if isinstance(answer, dict) and fields != [ANSWER] else {ANSWER: answer}
    found = [values.get(name) for name in fields]
    return [
        "" if one is None else one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in found
    ]


def _row(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "replace")
