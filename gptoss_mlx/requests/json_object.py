"""A JSON object read field by field: each of the type it must have, none overlooked."""

import math
from typing import Any

from gptoss_mlx.errors import RequestError, quoted

HUGE = 256
"""Bits: a number that has more is no count of anything, and would fill a message."""


class JsonObject:
    """Reads ``raw``. An absent field and one that is null are the same. Every fault is a RequestError naming the field.

    ``where`` is the object's own place, such as ``messages[2]``; "" for the body itself.
    """

    def __init__(self, raw: Any, where: str = "") -> None:
        if not isinstance(raw, dict):
            raise RequestError(f"{where or 'the request'} is not a JSON object", where or None)
        self._raw = raw
        self._where = where
        self._read: set[str] = set()

    def name(self, field: str) -> str:
        """The field's full name, for messages: in one line, whatever somebody called it."""
        shown = field if field.isprintable() and len(field) <= 80 else ascii(field)[:80]
        return f"{self._where}.{shown}" if self._where else shown

    def error(self, field: str, problem: str) -> RequestError:
        return RequestError(f"{self.name(field)} {problem}", self.name(field))

    def any(self, field: str) -> Any:
        self._read.add(field)
        return self._raw.get(field)

    def text(self, field: str) -> str | None:
        return self._typed(field, str, "a string")

    def needed_text(self, field: str) -> str:
        return self._needed(field, self.text(field))

    def flag(self, field: str) -> bool | None:
        return self._typed(field, bool, "true or false")

    def list(self, field: str) -> list[Any] | None:
        return self._typed(field, list, "an array")

    def object(self, field: str) -> "JsonObject | None":
        value = self._typed(field, dict, "an object")
        return None if value is None else JsonObject(value, self.name(field))

    def schema(self, field: str) -> dict[str, Any] | None:
        """An object whose inside is not ours to read."""
        return self._typed(field, dict, "an object")

    def number(self, field: str) -> float | None:
        value = self.any(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(field, f"must be a number, not {_shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(field, f"must be a finite number, not {value}")
        if isinstance(value, int) and value.bit_length() > HUGE:
            raise self.error(field, f"is out of range: {_shown(value)}")
        return value

    def integer(self, field: str) -> int | None:
        value = self.any(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.error(field, f"must be a whole number, not {_shown(value)}")
        if value is not None and value.bit_length() > HUGE:
            raise self.error(field, f"is out of range: {_shown(value)}")
        return value

    def one_of(self, field: str, *allowed: str) -> str | None:
        value = self.text(field)
        if value is not None and value not in allowed:
            raise self.error(field, f"is {_shown(value)}; use {', '.join(allowed)}")
        return value

    def only(self, field: str, *harmless: Any) -> None:
        """Refuse a field that asks for what is not offered here; ``harmless`` values ask for nothing."""
        value = self.any(field)
        if value is not None and not any(type(value) is type(other) and value == other for other in harmless):
            raise self.error(field, f"{_shown(value)} is not supported; leave it out")

    def skip(self, *fields: str) -> None:
        """Fields that change nothing about the answer."""
        self._read.update(fields)

    def unread(self) -> tuple[str, ...]:
        return tuple(field for field, value in self._raw.items() if field not in self._read and value is not None)

    def refuse_unread(self) -> None:
        """Whoever wrote a field meant something by it: one that nobody knows is an error, not a shrug."""
        if unread := self.unread():
            raise self.error(unread[0], "is not a field known here; leave it out")

    def _typed(self, field: str, kind: type, words: str) -> Any:
        value = self.any(field)
        if value is not None and not isinstance(value, kind):
            raise self.error(field, f"must be {words}, not {_shown(value)}")
        return value

    def _needed(self, field: str, value: str | None) -> str:
        if value is None:
            raise self.error(field, "is missing")
        return value


def _shown(value: Any) -> str:
    """Short enough for one line."""
    if isinstance(value, dict | list):
        return {dict: "an object", list: "an array"}[type(value)]
    return quoted(value, 40)
