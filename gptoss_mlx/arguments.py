"""Numbers as a Python caller gives them: of their kind and within their range, or refused in one line that names them.

Knows no option of anything's: whoever has one says what it may be.
"""

import math
from numbers import Real
from operator import index
from typing import Any

from gptoss_mlx.errors import UsageError, quoted


def whole(name: str, value: Any, least: int | None = None, allowed: str = "a whole number") -> int:
    """``value``, an integer of Python's or numpy's and no bool, as int. Raises UsageError, also below ``least``."""
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise UsageError(f"{name} is {quoted(value, 40)}; it must be {allowed}")
    return number


def real(name: str, value: Any, low: float, high: float, allowed: str) -> float:
    """``value``, a number of Python's or numpy's and no bool, as float. Raises UsageError unless it is from ``low`` to
    ``high``."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not low <= number <= high:
        raise UsageError(f"{name} is {quoted(value, 40)}; it must be {allowed}")
    return number
