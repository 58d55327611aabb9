"""Read a JSON object field by field, with a check of each field's type and of fields that nothing has read.

The module knows JSON types. It knows nothing of what any field means.
"""

import math
from collections.abc import Sequence
from typing import Any

from gptoss_mlx.errors import RequestError, quoted

HUGE = 256
"""In bits. A larger whole number is out of range for every field, and would fill an error message."""


class JsonObject:
    """The fields of ``raw``. A null field counts as absent. Each fault raises RequestError with the field's path.

    ``where`` is the path of the object itself, such as ``messages[2]``, or "" for the body of the request. ``notes``
    collects what is overlooked, in sentences. If it is None, nothing may be overlooked.
    """

    def __init__(self, raw: Any, where: str = "", notes: list[str] | None = None) -> None:
        if not isinstance(raw, dict):
            raise RequestError(f"{where or 'the request'} is not a JSON object", where or None)
        self._raw = raw
        self._where = where
        self._notes = notes
        self._read: set[str] = set()

    def path(self, field: str) -> str:
        """Return the field's path for messages, in one line even if ``field`` contains control characters."""
        shown = field if field.isprintable() and len(field) <= 80 else ascii(field)[:80]
        return f"{self._where}.{shown}" if self._where else shown

    def error(self, field: str, problem: str) -> RequestError:
        """Return the error that says what is wrong with the field."""
        return RequestError(f"{self.path(field)} {problem}", self.path(field))

    def any(self, field: str) -> Any:
        """Return the field's value of any type, or None. This and the methods below mark the field as read."""
        self._read.add(field)
        return self._raw.get(field)

    def text(self, field: str) -> str | None:
        return self._typed(field, str, "a string")

    def needed_text(self, field: str) -> str:
        value = self.text(field)
        if value is None:
            raise self.error(field, "is missing")
        return value

    def flag(self, field: str) -> bool | None:
        return self._typed(field, bool, "true or false")

    def list(self, field: str) -> list[Any] | None:
        return self._typed(field, list, "an array")

    def object(self, field: str) -> "JsonObject | None":
        value = self._typed(field, dict, "an object")
        return None if value is None else JsonObject(value, self.path(field), self._notes)

    def objects(self, field: str) -> "Sequence[JsonObject] | None":
        """Return the objects in an array. The path of the first one is ``field[0]``."""
        values = self.list(field)
        if values is None:
            return None
        return [JsonObject(one, f"{self.path(field)}[{number}]", self._notes) for number, one in enumerate(values)]

    def schema(self, field: str) -> dict[str, Any] | None:
        """Return an object whose fields are not checked here."""
        return self._typed(field, dict, "an object")

    def number(self, field: str) -> float | None:
        value = self._typed(field, (int, float), "a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(field, f"must be a finite number, not {value}")
        return value

    def integer(self, field: str) -> int | None:
        return self._typed(field, int, "a whole number")

    def one_of(self, field: str, *allowed: str) -> str | None:
        value = self.text(field)
        if value is not None and value not in allowed:
            raise self.error(field, f"is {_shown(value)}; use {', '.join(allowed)}")
        return value

    def only(self, field: str, *harmless: Any) -> None:
        """Raise RequestError if the field has a value, except one of ``harmless``, which ask for nothing."""
        value = self.any(field)
        if value is not None and not any(type(value) is type(other) and value == other for other in harmless):
            raise self.error(field, f"{_shown(value)} is not supported; leave it out")

    def overlook(self, field: str, *harmless: Any, because: str = "it is not supported") -> None:
        """Note that the field's value is ignored, unless it is one of ``harmless``. Raise what ``only`` raises if
        nothing may be overlooked."""
        if self._notes is None:
            self.only(field, *harmless)
        elif self.any(field) is not None and self.any(field) not in harmless:
            self.note(field, f"is ignored: {because}")

    def note(self, field: str, words: str) -> bool:
        """Note how the field is not taken as it is. Return False if nothing may be overlooked."""
        if self._notes is not None:
            self._notes.append(f"{self.path(field)} {words}")
        return self._notes is not None

    def skip(self, *fields: str) -> None:
        """Mark fields as read whose values do not change the answer."""
        self._read.update(fields)

    def unread(self) -> tuple[str, ...]:
        """Return the names of fields that have a value and were not read."""
        return tuple(field for field, value in self._raw.items() if field not in self._read and value is not None)

    def overlook_unread(self) -> None:
        """Note each field that was not read, or raise what ``refuse_unread`` raises if nothing may be overlooked."""
        for name in self.unread():
            if not self.note(name, "is ignored: it is not known"):
                self.refuse_unread()

    def refuse_unread(self) -> None:
        """Raise RequestError for the first field that was not read, because its author expects an effect."""
        if unread := self.unread():
            raise self.error(unread[0], "is not a known field; leave it out")

    def _typed(self, field: str, kinds: type | tuple[type, ...], words: str) -> Any:
        value = self.any(field)
        if value is None:
            return None
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise self.error(field, f"must be {words}, not {_shown(value)}")
        if isinstance(value, int) and value.bit_length() > HUGE:
            raise self.error(field, f"is out of range: {_shown(value)}")
        return value


def _shown(value: Any) -> str:
    """Return ``value`` for an error message, shortened to fit in one line."""
    if isinstance(value, dict | list):
        return {dict: "an object", list: "an array"}[type(value)]
    return quoted(value, 40)
