"""How the small model calculates: the thought it writes, and the answer.

Knows numbers and text. Knows no conversations, tokens or training.
"""

import hashlib
import re

COLUMNS = ("ones", "tens", "hundreds", "thousands", "ten thousands")
HELD_OUT_PAIRS = 5
HELD_OUT_PHRASINGS = 15
"""How much is excluded from training, in percent."""


def _percent(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100


def is_held_out_pair(a: int, b: int) -> bool:
    """Return whether training never has these numbers in one operation, in any order, with any sign or operator."""
    low, high = sorted((abs(a), abs(b)))
    return _percent(f"pair {low} {high}") < HELD_OUT_PAIRS


def is_held_out_phrasing(template: str) -> bool:
    """Return whether training never has this phrasing, in which ``{a}`` and ``{b}`` stand for the numbers."""
    return _percent(f"phrasing {template}") < HELD_OUT_PHRASINGS


def result(a: int, op: str, b: int) -> int:
    return a + b if op == "+" else a - b if op == "-" else a * b


def answer(a: int, op: str, b: int) -> str:
    """Return the text of the final message."""
    return f"{a} {op} {b} = {result(a, op, b)}."


def answered_number(text: str) -> int | None:
    """Return the last integer in a final message, or None."""
    found = re.findall(r"-?\d+", text)
    return int(found[-1]) if found else None


def thought(a: int, op: str, b: int, brief: bool) -> str:
    """Return the column-by-column work for ``a + b`` or ``a - b``, in one line when ``brief``. ``b`` is not negative.

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
            carried = ", carry 1" if moved else ""
        else:
            value = p - q - moved
            moved = int(value < 0)
            p = p + 10 * moved
            value = value + 10 * moved
            carried = ", borrow 1" if moved else ""
        step = f"{p}{sign}{q}{extra}={value}"
        steps.append(step if brief else f"{COLUMNS[place]}: {step}{carried}")
    if brief:
        return f"{aligned}: {', '.join(steps)}"
    return "\n".join([aligned, *steps, f"={total}"])
