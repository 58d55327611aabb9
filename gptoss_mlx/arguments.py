"""Checking numbers that a Python caller gives: their type and their range. Knows no option; the caller names it."""

import math
from collections.abc import Iterable
from numbers import Real
from operator import index
from typing import Any

from gptoss_mlx.errors import UsageError, quoted


def whole(name: str, value: Any, least: int | None = None, allowed: str = "a whole number") -> int:
    """Return ``value``, an integer of Python or numpy, as int. Raises UsageError for a bool, another type, or a number
    below ``least``. The message names the option and what is ``allowed``."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise UsageError(f"{name} is {quoted(value, 40)}; it must be {allowed}")
    return number


def token_ids(name: str, given: Iterable[int]) -> list[int]:
    """Return token ids, given as argument ``name``, as Python's integers. Raises UsageError."""
    try:
        return [whole(f"an id of {name}", id) for id in given]
    except TypeError as error:  # of iteration
        raise UsageError(f"{name} is {quoted(given, 40)}; it must be a list of token ids") from error


def real(name: str, value: Any, low: float, high: float, allowed: str) -> float:
    """Return ``value``, a number of Python or numpy, as float. Raises UsageError for a bool, another type, or a number
    outside ``low`` to ``high``. The message names the option and what is ``allowed``."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not low <= number <= high:
        raise UsageError(f"{name} is {quoted(value, 40)}; it must be {allowed}")
    return number
