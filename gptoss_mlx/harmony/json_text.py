"""Write JSON as openai-harmony writes it into prompts, because the model was trained on that form.

Knows no schema and no message. Only numbers differ from Python's JSON. Floats are written ``0.00001``, ``1e-8``,
``1e16``. Whole numbers beyond 64 bits become floats. The last of 16 or 17 digits may differ, because openai-harmony
reads a number with one multiplication or division, which rounds.
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

LARGEST_UNSIGNED = 2**64 - 1
LARGEST_POWER = 308


def json_text(value: Any) -> str:
    """Return ``value`` as one line of JSON, in Unicode. Raises TypeError or ValueError when JSON cannot hold it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(key)}:{json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(json_text, value)) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    return json.dumps(value, ensure_ascii=False)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key is a {type(key).__name__}, not a string")
    return json.dumps(key, ensure_ascii=False)


def _number(value: int | float) -> str:
    if isinstance(value, int) and -(2**63) <= value <= LARGEST_UNSIGNED:
        return str(int(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    written = Decimal(str(value))
    return ("-" if written.is_signed() else "") + _float(_as_read(written))


def _as_read(written: Decimal) -> float:
    """Return the absolute value openai-harmony reads: the digits that fit 64 bits, scaled by one power of ten."""
    _, digits, exponent = written.as_tuple()
    assert isinstance(exponent, int)  # it would be a letter for infinity
    significand = int("".join(map(str, digits)))
    while significand > LARGEST_UNSIGNED:
        significand = significand // 10
        exponent = exponent + 1
    result = float(significand)
    if exponent < -LARGEST_POWER:
        result = result / float(f"1e{LARGEST_POWER}")
        exponent = exponent + LARGEST_POWER
    power = float(f"1e{abs(exponent)}")
    result = result * power if exponent >= 0 else result / power
    if not math.isfinite(result):
        raise ValueError("a number is out of range")
    return result


def _float(value: float) -> str:
    """Return the shortest digits that round to ``value``, with an exponent if the point is far from them."""
    if value == 0:
        return "0.0"
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    point = len(text) + exponent  # digits before the point
    if exponent >= 0 and point <= 16:
        return f"{text}{'0' * exponent}.0"
    if 0 < point <= 16:
        return f"{text[:point]}.{text[point:]}"
    if -5 < point <= 0:
        return f"0.{'0' * -point}{text}"
    return f"{text[0]}{'.' if text[1:] else ''}{text[1:]}e{point - 1}"
