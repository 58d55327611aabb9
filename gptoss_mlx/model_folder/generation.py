"""Check ``generation_config.json``: which of its values are used, and which values are allowed."""

import json
from collections.abc import Mapping
from types import NoneType
from typing import Any

from gptoss_mlx.errors import quoted

_RANGES = {"temperature": (0.0, 100.0), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0)}


def problem_with(generation: Mapping[str, Any]) -> str | None:
    """Return what makes these generation defaults unusable, or None. A value may be absent or null."""
    for name, (low, high) in _RANGES.items():
        value = generation.get(name)
        if value is not None and not (type(value) in (int, float) and low <= value <= high):  # NaN is in no range
            return f"{name} is {quoted(value)}, not a number from {low:g} to {high:g}"
    if generation.get("top_p") == 0:
        return "top_p is 0, which leaves no token to draw"
    if type(generation.get("do_sample")) not in (bool, NoneType):
        return f"do_sample is {quoted(generation['do_sample'])}, not true or false"
    top_k = generation.get("top_k")
    stops = generation.get("eos_token_id")
    if top_k is not None and not _is_count(top_k):
        return f"top_k is {quoted(top_k)}, not a whole number"
    if stops is not None and not all(map(_is_count, stops if isinstance(stops, list) else [stops])):
        return f"eos_token_id is {quoted(stops)}, not a token id or a list of them"
    try:
        json.dumps(generation, indent=2, allow_nan=False)  # as the model folder will keep it
    except (ValueError, RecursionError):
        return "it holds a number that JSON has not, or is nested too deeply"
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31
