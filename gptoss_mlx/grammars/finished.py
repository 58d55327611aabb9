"""What no grammar sees in a JSON text that has ended under it. Knows no schema."""

import json
from typing import Any

from gptoss_mlx.errors import quoted


def duplicate_name(text: str) -> str | None:
    """Return a property's name that an object in a JSON text has twice, or None. Raises ValueError for other text."""
    double: list[str] = []

    def read(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                double.append(name)
            seen.add(name)

    json.loads(text, object_pairs_hook=read)
    return double[0] if double else None


def fault(text: str) -> str | None:
    """Return what is wrong with a text that has ended under a grammar of JSON, or None: a name that comes twice, or a
    number or a depth that cannot be read."""
    try:
        double = duplicate_name(text)
    except (ValueError, RecursionError):
        return "the JSON that the model wrote cannot be read"
    return None if double is None else f"the model wrote the property {quoted(double)} twice in one object"
