"""Regexes of JSON's strings: by length, by an author's pattern, and by format. Knows no schema.

A string is spelled in one way only, so that a regex can leave one out: characters stand for themselves, and only what
JSON does not allow unescaped has an escape.
"""

import json
import re

PLAIN = r'[^"\\\x00-\x1f\x7f]'
CHARACTER = rf'(?:{PLAIN}|\\["\\bfnrt])'

_YEAR = "[1-9][0-9]{3}"
_DATE = (
    f"{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_HEX = "[0-9a-fA-F]"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": "P(?:[0-9]{1,4}[YMWD]|(?:[0-9]{1,4}D)?T(?:[0-9]{1,4}H)?(?:[0-9]{1,4}M)?[0-9]{1,4}S)",
    "email": rf"[a-zA-Z0-9_+-]{{1,32}}(?:\.[a-zA-Z0-9_+-]{{1,32}})?@{_HOST}",
    "hostname": _HOST,
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": rf"{_HEX}{{1,4}}(?::{_HEX}{{1,4}}){{7}}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}",
    "uri": rf"https?://{_HOST}(?::[1-9][0-9]{{1,3}})?(?:/[a-zA-Z0-9_.~-]{{0,64}}){{0,8}}",
}
"""What a string of a format may be: a part of the format that is never outside it. Of ``duration`` and ``uri`` it is
the usual part. Other formats only annotate."""


class NotEnforced(ValueError):
    """A pattern that has no regex here. ``str()`` says why."""


def quoted_text(value: object) -> str:
    """Return a value's one spelling. Raises ValueError where JSON has none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def literal(text: str) -> str:
    """Return a regex of ``text`` alone."""
    return "".join(
        c if c.isalnum() or c == "_" or (c > "\x7f" and c.isprintable()) else f"\\x{{{ord(c):x}}}" for c in text
    )


def by_length(least: int, most: int | None, character: str = CHARACTER) -> str:
    """Return a regex of strings of ``least`` to ``most`` characters, in their quotes."""
    return (
        f'"{character}{{{least},{"" if most is None else most}}}"' if least or most is not None else f'"{character}*"'
    )


def by_pattern(pattern: str) -> str:
    """Return a regex of the quoted strings in which an author's ``pattern`` is found, to be matched beside a shape that
    keeps quotes out. Raises NotEnforced."""
    ways = []
    for way in _alternatives(pattern):
        begins, ends = way.startswith("^"), _ends(way)
        inner = way[begins : len(way) - ends]
        if _anchored(inner):
            raise NotEnforced("has an anchor inside; use ^ at the beginning and $ at the end only")
        ways.append(f"{'' if begins else '(?s:.)*'}(?:{_ascii(inner)}){'' if ends else '(?s:.)*'}")
    return f'"(?:{"|".join(ways)})"'


def _pieces(pattern: str) -> list[str]:
    """Split a regex into escapes, classes and single characters."""
    return re.findall(r"\\u\{[^}]*\}|\\[pPx]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL)


def _alternatives(pattern: str) -> list[str]:
    ways, depth = [""], 0
    for piece in _pieces(pattern):
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == "|" and depth == 0:
            ways.append("")
        else:
            ways[-1] += piece
    return ways


def _ends(way: str) -> bool:
    pieces = _pieces(way)
    return bool(pieces) and pieces[-1] == "$"


def _anchored(way: str) -> bool:
    return any(piece in ("^", "$", r"\A", r"\Z", r"\z", r"\b", r"\B") for piece in _pieces(way))


def _ascii(way: str) -> str:
    r"""Return the regex with \d and \w as ECMA-262 has them, and \D, \W and \S without what other engines add."""
    inside = {r"\d": "0-9", r"\w": "0-9A-Za-z_", r"\s": r" \t\n\r\f\v", r"\/": "/", r"\-": r"\-"}
    outside = {
        r"\d": "[0-9]",
        r"\w": "[0-9A-Za-z_]",
        r"\s": r"[ \t\n\r\f\v]",
        r"\/": "/",
        r"\D": r"[^\d]",
        r"\W": r"[^\w]",
    }
    out: list[str] = []
    before = ""
    for piece in _pieces(way):
        lazy = piece == "?" and before in ("*", "+", "?", "}")  # of what is matched whole, lazy is as greedy
        before = "" if lazy else piece
        if lazy:
            continue
        if piece.startswith("[") and len(piece) > 1:
            negated = piece.startswith("[^")
            inner = [
                {"[": r"\[", r"\/": "/"}.get(part) or (part if negated else inside.get(part, part))
                for part in re.findall(r"\\.|.", piece[1 + negated : -1], re.DOTALL)
            ]
            out.append(f"[{'^' * negated}{''.join(inner)}]")
        elif re.fullmatch(r"\\[1-9k]", piece):
            raise NotEnforced("has a backreference, which cannot be enforced")
        else:
            out.append(outside.get(piece, piece))
    text = "".join(out)
    if "(?=" in text or "(?!" in text or "(?<" in text.replace("(?<name", ""):
        raise NotEnforced("looks ahead or behind, which cannot be enforced")
    return text
