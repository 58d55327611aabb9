"""How the small model does a sum: what it writes as thought, and what it answers.

Knows numbers and text; knows nothing of conversations, tokens or training.
"""

import hashlib
import re

COLUMNS = ("ones", "tens", "hundreds", "thousands", "ten thousands")
HELD_OUT_PAIRS = 5  # in a hundred
HELD_OUT_PHRASINGS = 15  # in a hundred


def _percent(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100


def is_held_out_pair(a: int, b: int) -> bool:
    """Whether training never sees these two numbers in one operation, in either order, with any sign or operator."""
    low, high = sorted((abs(a), abs(b)))
    return _percent(f"pair {low} {high}") < HELD_OUT_PAIRS


def is_held_out_phrasing(template: str) -> bool:
    """Whether training never sees this way to ask, ``{a}`` and ``{b}`` standing for the numbers."""
    return _percent(f"phrasing {template}") < HELD_OUT_PHRASINGS


def result(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b if op == "-" else a * b


def answer(a: int, op: str, b: int) -> str:
    """The text of the final message."""
    return f"{a} {op} {b} = {result(a, op, b)}."


def answered_number(text: str) -> int | None:
    """The last integer in a final message, or None."""
    found = re.findall(r"-?\d+", text)
    return int(found[-1]) if found else None


def thought(a: int, op: str, b: int, brief: bool) -> str:
    """Column-by-column work for ``a + b`` or ``a - b``, where ``b`` is not negative; in one line when ``brief``.

    The numbers are first aligned by leading zeros and, where the result or ``a`` is negative, turned into a sum or a
    difference that can be done in columns.
    """
    assert b >= 0, "b"
    total = result(a, op, b)
    x = abs(a)
    y = b
    sign = op if a >= 0 else ("-" if op == "+" else "+")
    if sign == "-" and x < y:
        x, y = y, x
    width = max(len(str(x)), len(str(y)))
    aligned = f"{x:0{width}}{sign}{y:0{width}}"
    if total < 0:
        aligned = f"{a}{op}{b}=-({aligned})"
    elif a < 0:
        aligned = f"{a}{op}{b}={aligned}"
    steps = []
    moved = 0
    for place in range(width):
        p = x // 10**place % 10
        q = y // 10**place % 10
        extra = f"{sign}1" if moved else ""
        if sign == "+":
            value = p + q + moved
            moved = int(value > 9)
            note = ", carry 1" if moved else ""
        else:
            value = p - q - moved
            moved = int(value < 0)
            p = p + 10 * moved
            value = value + 10 * moved
            note = ", borrow 1" if moved else ""
        step = f"{p}{sign}{q}{extra}={value}"
        steps.append(step if brief else f"{COLUMNS[place]}: {step}{note}")
    if brief:
        return f"{aligned}: {', '.join(steps)}"
    return "\n".join([aligned, *steps, f"={total}"])
