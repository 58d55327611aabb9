"""The mutants of a shader file: its text with one place changed. Knows no test.

There are seven kinds. A barrier is removed. A bound is moved by one, up or down. Two offsets are swapped, which are
positions in one array or variables in one statement. A constant is changed, or a template parameter that holds the bits
of a float is replaced by its default. A term or a factor is dropped, also everywhere in a function. A guard is removed,
which is one side of min, max or ?:, a clamp, or a condition. Operands are exchanged.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

from metal_kernels.source import closing, split_arguments, without_comments

OFFSETS = (
    "row",
    "choice",
    "expert",
    "slot",
    "first",
    "matrix_row",
    "lane",
    "groups",
    "g",
    "n",
    "r",
    "b",
    "i",
    "j",
    "k",
    "s",
    "d",
    "h",
    "split",
    "own",
    "run",
    "leader",
    "dim",
    "plane",
    "p",
    "t",
    "tile",
    "start",
)
"""Variables that positions are computed from."""


@dataclass(frozen=True)
class Mutant:
    """A shader file with one place changed."""

    kind: str
    file: str
    line: int
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a shader file."""
    text = path.read_text()
    code = without_comments(text)
    seen: set[str] = set()
    described: Counter[str] = Counter()
    for kind, start, stop, new in ((kind, *edit) for kind, edits in KINDS.items() for edit in edits(code)):
        changed = text[:start] + new + text[stop:]
        if changed in seen or changed == text:
            continue
        seen.add(changed)
        pairs = list(zip(code.split("\n"), without_comments(changed).split("\n"), strict=True))
        differing = [number for number, (was, now) in enumerate(pairs) if was != now]
        was, now = (" / ".join(pairs[n][side].strip() for n in differing) for side in (0, 1))
        what = f"{was}  ->  {now or '(nothing)'}"
        described[what] += 1
        again = f" ({described[what]})" if described[what] > 1 else ""  # of lines that read the same
        yield Mutant(kind, path.name, differing[0] + 1, what + again, changed)


Edit = tuple[int, int, str]


def _barriers(code: str) -> Iterator[Edit]:
    for match in re.finditer(r"\b\w+_barrier\([^;]*;", code):
        yield match.start(), match.end(), ""


def _bounds(code: str) -> Iterator[Edit]:
    """Yield moved bounds: right sides of comparisons, limits of min and clamp, rounding constants of divisions, array
    sizes."""
    for match in re.finditer(r" (<|>) (?!<|>)", code):
        start = match.end()
        stop = _end(code, start)
        for step in ("+", "-"):
            yield start, stop, f"({code[start:stop]} {step} 1)"
    for match in re.finditer(r"\b(min|clamp)\(", code):
        at = match.end()
        end = _end(code, at)
        while code[end] == ",":
            start = end + 2
            end = _end(code, end + 2)
            for step in ("+", "-"):
                yield start, end, f"({code[start:end]} {step} 1)"
    for match in re.finditer(r"\((\w+) \+ (\d+)\) / \d+", code):
        for change in (1, -1):
            yield match.start(2), match.end(2), str(int(match[2]) + change)
    # Arrays are only made shorter, because a longer one just leaves its end unused.
    for match in re.finditer(r"^\s*(?:threadgroup )?(?:float[24]?|uint4?|Eight) [^=;()]*\[[^;()]*;", code, re.M):
        for size in re.finditer(r"\[([^\]]+)\]", match[0]):
            start = match.start() + size.start(1)
            yield start, start + len(size[1]), f"{size[1]} - 1"


def _end(code: str, at: int) -> int:
    """Return where the expression that begins at ``at`` ends."""
    depth = 0
    while True:
        char = code[at]
        if depth == 0 and (char in ";),?" or code.startswith((" &&", " ||", " ?"), at)):
            return at
        depth += (char in "([") - (char in ")]")
        at += 1


def _offsets(code: str) -> Iterator[Edit]:
    """Yield swaps of two offset variables in a statement, and of two positions in one array in a function."""
    for match in re.finditer(r"[^;{}]+", code):
        found = [
            m
            for m in re.finditer(r"(?<![\w.])(" + "|".join(OFFSETS) + r")\b(?![\w(]|\+\+)", match[0])
            if not match[0].lstrip().startswith(("METAL_FUNC", "template", "[[kernel]]", "#pragma once"))
        ]
        for a, b in combinations(found, 2):
            if a[0] != b[0] and not _commute(match[0], a, b):
                new = match[0][: a.start()] + b[0] + match[0][a.end() : b.start()] + a[0] + match[0][b.end() :]
                yield match.start(), match.end(), new
    for function in re.finditer(r"\)\s*\{\n(.*?)\n\}", code, re.S):
        subscripts: dict[str, list[re.Match[str]]] = {}
        for match in re.finditer(r"(?<!float |uint4 )(?<!uint )(?<!float2 )\b([\w.]+)\[([^\[\]]+)\]", function[1]):
            subscripts.setdefault(match[1], []).append(match)
        for found in subscripts.values():
            for a, b in combinations(found, 2):
                if a[2] != b[2]:
                    body = function[1]
                    base = function.start(1)
                    new = body[a.start(2) : a.end(2)], body[b.start(2) : b.end(2)]
                    yield base + a.start(2), base + b.end(2), new[1] + body[a.end(2) : b.start(2)] + new[0]


def _commute(statement: str, a: re.Match[str], b: re.Match[str]) -> bool:
    """Return whether the two are operands of one sum or one test for equality, where a swap changes nothing."""
    between = statement[a.end() : b.start()]
    before = statement[: a.start()]
    after = statement[b.end() :]
    free = not before.rstrip().endswith(("*", "/", "%", "-")) and not after.lstrip().startswith(("*", "/", "%"))
    return free and bool(re.fullmatch(r"\s*(\+|==)\s*(\w+( \* \w+)* \+ )*(u?int\()?", between))


def _constants(code: str) -> Iterator[Edit]:
    """Yield changed constants: floats, masks, shifts, whole numbers with a suffix, and defaults in place of bits."""
    for match in re.finditer(r"(?<![\w.])(?:\d+\.\d*f?|\d+f)(?!\w)", code):
        yield *match.span(), "1.0f" if float(match[0].rstrip("f")) == 0 else f"(1.25f * {match[0]})"
    for match in re.finditer(r"\b0x[0-9A-Fa-f]+u", code):
        yield *match.span(), f"({match[0]} & ({match[0]} - 1u))"  # without the lowest bit
    for match in re.finditer(r"(?<=<< )\d+\b|(?<=>> )\d+\b|(?<![\w.])\d+u\b|(?<=float2\()\d+\b", code):
        yield *match.span(), f"({match[0]} + 1)"
    for name, default in re.findall(r"\bint (\w+_BITS) = (-?\d+)", code):
        for match in re.finditer(rf"(?<=<float>\(){name}\b", code):
            yield *match.span(), default


_LOOSER = {"+": "+-&|^?:,;", "-": "+-&|^?:,;", "*": "*/%+-&|^?:,;<>=", "/": "*/%+-&|^?:,;<>="}
"""What ends the right operand of each operator, outside brackets."""


def _terms(code: str) -> Iterator[Edit]:
    """Yield dropped terms and factors, the addend of fma, and sums that begin anew."""
    for body_start, body in _bodies(code):
        dropped: dict[str, list[tuple[int, int]]] = {}
        for match in re.finditer(r" ([-+*/]) (?=[\w(])", body):
            stop = _operand_end(body, match.end(), _LOOSER[match[1]])
            if "\n" not in body[match.start() : stop] and not _counts(body, match.start()):
                yield body_start + match.start(), body_start + stop, ""
                dropped.setdefault(body[match.start() : stop], []).append((match.start(), stop))
        for found in dropped.values():
            if len(found) > 1:
                between = [body[one[1] : other[0]] for one, other in pairwise(found)]
                yield body_start + found[0][0], body_start + found[-1][1], "".join(between)
        for start, stop, arguments in _calls(body, "fma"):
            yield body_start + start, body_start + stop, f"({arguments[0]} * ({arguments[1].strip()}))"
        for match in re.finditer(r" [-+*]= ", body):
            if not _counts(body, match.start()):
                yield body_start + match.start(), body_start + match.end(), " = "


def _guards(code: str) -> Iterator[Edit]:
    """Yield removed guards: one side of min, max and ?:, what is clamped, and conditions."""
    for start, stop, arguments in _calls(code, "clamp"):
        yield start, stop, f"({arguments[0]})"
    for name in ("min", "max"):
        for start, stop, arguments in _calls(code, name):
            for argument in arguments:
                yield start, stop, f"({argument.strip()})"
    for match in re.finditer(r"\bif \(", code):
        stop = closing(code, match.end()) - 1
        if not _COMPILED.fullmatch(code[match.end() : stop]):
            yield match.end(), stop, "true"
    for start, stop, yes, no in _conditionals(code):
        yield start, stop, f"{yes} : {yes}"
        yield start, stop, f"{no} : {no}"


def _exchanges(code: str) -> Iterator[Edit]:
    """Yield exchanged operands of -, / and ?:, and of fma the first factor and the addend."""
    for at, body in _bodies(code):
        for match in re.finditer(r"(?<![\w.\])])(\w[\w.]*(?:\[[^\[\]]*\])?(?:\([^()]*\))?) ([-/]) ", body):
            stop = _operand_end(body, match.end(), _LOOSER["*"])
            if not _counts(body, match.start(2)):
                yield at + match.start(), at + stop, f"{body[match.end() : stop]} {match[2]} {match[1]}"
    for start, stop, yes, no in _conditionals(code):
        yield start, stop, f"{no} : {yes}"
    for start, stop, arguments in _calls(code, "fma"):
        first, second, third = (argument.strip() for argument in arguments)
        yield start, stop, f"fma({third}, {second}, {first})"


def _bodies(code: str) -> Iterator[tuple[int, str]]:
    """Yield where each function's body begins, and the body."""
    for match in re.finditer(r"\)\s*\{\n(.*?)\n\}|METAL_FUNC [^\n]*\) \{([^\n]*)\}", code, re.S):
        group = 1 if match[1] is not None else 2
        yield match.start(group), match[group]


def _calls(code: str, name: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield where each call of a function begins and ends, and its arguments."""
    for match in re.finditer(rf"(?<![\w.]){name}\(", code):
        stop = closing(code, match.end())
        yield match.start(), stop, split_arguments(code[match.end() : stop - 1])


def _conditionals(code: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield where the two sides of each ?: begin and end, and the sides."""
    for match in re.finditer(r"[\w.)]+ \? ", code):
        if match[0].isupper() or match[0][0].isdigit():  # decided when the shader is compiled
            continue
        colon = _operand_end(code, match.end(), ":")
        stop = _operand_end(code, colon + 3, ",;")
        yield match.end(), stop, code[match.end() : colon], code[colon + 3 : stop]


def _operand_end(code: str, at: int, ends: str) -> int:
    """Return where the operand that begins at ``at`` ends: before one of ``ends``, or the bracket around it."""
    depth = 0
    while depth or code[at] not in ends + ")]}":
        depth += (code[at] in "([{") - (code[at] in ")]}")
        at += 1
    return at - (code[at - 1] == " ")


def _counts(body: str, at: int) -> bool:
    """Return whether what is computed at a place counts or is a place: it is in a subscript, in the head of a loop, in
    a statement that declares whole numbers or moves a pointer, or in a line of the preprocessor. Bounds and offsets
    have kinds of their own."""
    begins = max(body.rfind(end, 0, at) for end in "\n;{") + 1
    before = body[begins:at]
    if before.count("[") > before.count("]"):
        return True
    line = body[begins:].lstrip()
    if re.match(r"(constexpr |const )?(u?int|ushort) |#|\w+ \+= \w+ \*|\w+ \+= \(|for \($", line):
        return True
    line = body[body.rfind("\n", 0, at) + 1 :].lstrip()
    return line.startswith("for (") and at < closing(body, body.index("(", body.rfind("\n", 0, at) + 1) + 1)


_COMPILED = re.compile(r"[A-Z_0-9 <>=&|%]+")
"""A condition that is decided when a shader is compiled."""


KINDS = {
    "barrier": _barriers,
    "bound": _bounds,
    "offset": _offsets,
    "constant": _constants,
    "term": _terms,
    "guard": _guards,
    "exchange": _exchanges,
}
"""The edits of each kind."""
