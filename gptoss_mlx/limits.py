"""What a user allows a model, as it is written: ``--memory``, ``--context``, ``--prefix-disk``. Knows no machine and no
model, and imports no mlx."""

import re

from gptoss_mlx.arguments import whole
from gptoss_mlx.errors import UsageError, quoted

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SIZE = 'a size such as "10GB" or "9.5 GiB"'


def memory_limit(given: int | str | None) -> int | None:
    """Return bytes, or None for "auto" and None. Raises UsageError for zero, a negative number or nonsense."""
    return None if given is None or given == "auto" else _size("memory", given, f"{SIZE}, or auto")


def disk_limit(given: int | str | None) -> int:
    """Return how many bytes what was read may take on disk, 0 for "off" and None. Raises UsageError as memory_limit
    does."""
    return 0 if given is None or given == "off" else _size("prefix-disk", given, f"{SIZE}, or off")


def _size(name: str, given: int | str, allowed: str) -> int:
    """Return a size in bytes."""
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b?\s*", given, re.IGNORECASE)
        if found is None:
            raise UsageError(f"{name} is {quoted(given, 40)}; it must be {allowed}")
        number, unit, binary = found.groups()
        size = 1024 ** " kmgt".index(unit.lower()) if binary and unit else UNITS[unit.lower()]
        amount = int(float(number) * size)
    else:
        amount = whole(name, given, allowed=f"a number of bytes, {allowed}")
    if not 1 <= amount < 1 << 63:
        raise UsageError(f"{name} is {quoted(given, 40)}; it must be more than nothing: {allowed}")
    return amount


def context_limit(given: int | None) -> int | None:
    """Return a number of tokens, or None for as many as fit. Raises UsageError for zero, a negative number or
    nonsense."""
    return None if given is None else whole("context", given, 1, "a number of tokens, 1 or more")
