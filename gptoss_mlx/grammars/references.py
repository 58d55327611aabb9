"""What a $ref in a JSON Schema points to. Knows no other keyword."""

import re
from typing import Any

from gptoss_mlx.errors import GrammarError, quoted


def resolve(root: Any, ref: str, path: str) -> tuple[Any, str]:
    """Return what a $ref points to in the schema ``root``, and its path. Raises GrammarError."""
    if not ref.startswith("#"):
        raise GrammarError(f"{quoted(ref)} lies outside the schema; put it into $defs", path)
    found: Any = root
    if not ref.startswith("#/") and ref != "#":
        anchored = [one for one in _schemas(root) if one.get("$anchor") == ref[1:] or one.get("$id") == ref]
        if anchored:
            return anchored[0], ref
        raise GrammarError(f"{quoted(ref)} points to nothing", path)
    for step in ref[2:].split("/") if ref != "#" else ():
        step = re.sub("%([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), step)
        step = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise GrammarError(f"{quoted(ref)} points to nothing", path) from None
    return found, ref


def _schemas(root: Any) -> list[dict[str, Any]]:
    """Return every object in a schema."""
    found, left = [], [root]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            found.append(one)
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found
