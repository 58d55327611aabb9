"""Strings and numbers of a JSON Schema as regexes that a text must match together. Knows no arrays, objects or rules.

``refuse`` is called with a keyword, its path and why it cannot be enforced. It raises, or the keyword is dropped.
"""

import re
from collections.abc import Callable
from typing import Any

from gptoss_mlx.errors import GrammarError, quoted
from gptoss_mlx.grammars import numbers, strings
from gptoss_mlx.grammars.grammar import matches_something
from gptoss_mlx.grammars.keywords import counts

Refuse = Callable[[str, str, str], None]
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def string(schema: dict[str, Any], path: str, refuse: Refuse, warn: Callable[[str], None]) -> tuple[str, ...] | None:
    """Return the regexes of a string, None if nothing matches them. ``warn`` gets a line for a format that only
    annotates."""
    form = schema.get("format")
    if form is not None and form not in strings.FORMATS:
        warn(f"{path}/format: {quoted(form, 40)} only annotates; it is ignored")
        form = None
    least, most = counts(schema, "Length", path)
    parts = [f'"(?:{strings.FORMATS[form]})"'] if form is not None else []
    if "pattern" in schema:
        try:
            parts.append(strings.by_pattern(schema["pattern"]))
            if not matches_something([strings.by_length(least, most, strings.PLAIN), *parts]):
                raise strings.NotEnforced("is no regex that can be enforced, or matches no text without escapes")
        except strings.NotEnforced as error:
            refuse("pattern", f"{path}/pattern", str(error))
            parts = parts[: form is not None]
    shape = strings.by_length(least, most, strings.PLAIN if parts else strings.CHARACTER)
    if parts and not matches_something([shape, *parts]):
        return None
    return (shape, *parts)


def limits(schema: dict[str, Any], path: str) -> numbers.Range:
    """Return the range of a number. Raises GrammarError for a bound that is no number."""
    found = {}
    for keyword in BOUNDS:
        bound = schema.get(keyword)
        if bound is not None and not isinstance(bound, bool):
            try:
                found[keyword] = numbers.decimal(bound)
            except ValueError as error:
                raise GrammarError(str(error), f"{path}/{keyword}") from None
    for keyword, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(flag) is True and keyword in found:  # as drafts up to 4 have it
            found[flag] = found.pop(keyword)
    return numbers.Range(*(found.get(name) for name in BOUNDS))


def admits(schema: dict[str, Any], value: Any, path: str) -> bool:
    """Return whether the keywords for strings and numbers admit ``value``. Those of others are not looked at."""
    if isinstance(value, str):
        long_enough = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return long_enough and ("pattern" not in schema or bool(re.search(schema["pattern"], value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return numbers.decimal(value) in limits(schema, path)
    return True


def integer(schema: dict[str, Any], path: str, refuse: Refuse) -> tuple[str, ...] | None:
    """Return the regexes of an integer, None if there is none in its range."""
    multiple = schema.get("multipleOf", 1)
    if isinstance(multiple, float) and multiple.is_integer():
        multiple = int(multiple)
    try:
        if not isinstance(multiple, int) or multiple < 1:
            raise ValueError("of an integer must be a whole number, 1 or more")
        parts = numbers.integer(limits(schema, path), multiple)
    except ValueError as error:
        refuse("multipleOf", f"{path}/multipleOf", str(error))
        parts = numbers.integer(limits(schema, path))
    return None if parts is None else tuple(parts)


def number(schema: dict[str, Any], path: str, refuse: Refuse) -> tuple[str, ...] | None:
    """Return the regexes of a number, None if there is none in its range."""
    if "multipleOf" in schema:
        return integer(schema, path, refuse)  # the multiples that are whole
    parts = numbers.number(limits(schema, path))
    return None if parts is None else tuple(parts)
