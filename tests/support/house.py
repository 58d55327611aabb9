"""The house as ``tests/test_imports.py`` holds it: which room may import which. Writes the table of rooms in
``docs/architecture.md``, and reads it again.

Run as ``python -m tests.support.house`` to write it alone; ``make diagrams`` writes it too.
"""

import ast
import functools
import re
from collections.abc import Mapping

from tests.support.page_parts import DOCS, ROOT, write_part
from tests.test_imports import ALLOWED

PAGE = DOCS / "architecture.md"
BELOW = "↓"
"""Behind a room's name: that room, and all that it may import."""

SHOWN = (
    *("errors", "harmony", "config", "sampling", "model_folder", "model", "engine", "grammars", "runtime", "reply"),
    *("link", "tools", "conversation", "requests", "batch", "hub", "history", "sessions", "screen", "machine"),
    *("memory", "prediction", "kernel_check", "metal_kernels", "convert", "convert.remote", "bench", "inspection"),
)
"""The rooms of the picture. The table has all."""

COLOURS = {"what people use": "box", "text and messages": "violet", "the model": "green", "files of weights": "warm"}

ABOVE = ("server", "cli")
"""They stand above all rooms and import what they need."""


def short(room: str) -> str:
    """Return a room's name without the package that most are in."""
    return room.removeprefix("gptoss_mlx.")


def full(name: str) -> str:
    """Return the room that ``short`` returned ``name`` for. Raises KeyError for a name that no room has."""
    room = name if name in ALLOWED else f"gptoss_mlx.{name}"
    if room not in ALLOWED and room != "gptoss_mlx.__version__":
        raise KeyError(name)
    return room


def table() -> str:
    """Return the table of rooms, the lowest first: what each knows, and what it may import."""
    rooms = sorted(ALLOWED, key=lambda room: (level(room), room))
    rows = [f"| `{short(room)}` | {purpose(room)} | {arrows(room)} |" for room in rooms]
    return "\n".join(("| room | what it is | may import |", "|---|---|---|", *rows))


def arrows(room: str) -> str:
    """Return what a room may import, in few words: rooms marked BELOW, then the others."""
    allowed = ALLOWED[room]
    whole = {other for other in allowed if ALLOWED.get(other) and ALLOWED[other] <= allowed}
    whole = {one for one in whole if not any(one in ALLOWED[other] for other in whole)}
    covered = whole.union(*(ALLOWED[one] for one in whole))
    words = [f"`{short(one)}` {BELOW}" for one in sorted(whole)]
    words += [f"`{short(one)}`" for one in sorted(allowed - covered)]
    return ", ".join(words) or "nothing"


def read_table(page: str) -> dict[str, set[str]]:
    """Return what the page's table of rooms says, with BELOW spelled out."""
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    said: dict[str, set[str]] = {}
    for room, words in rows:
        found: set[str] = set()
        for name, below in re.findall(rf"`([\w.]+)`( {BELOW})?", words):
            found |= {full(name), *(said[full(name)] if below else ())}
        said[full(room)] = found
    return said


def purpose(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    file = ROOT / room.replace(".", "/")
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    if not file.is_file():  # a name of the front door
        return "the version's number"
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n\n")[0].split())
    first = re.split(r"(?<=[.:]) (?=[A-Z`])", text)[0].rstrip(".:")
    return first.replace("``", "`").replace("|", "\\|")


@functools.cache
def level(room: str, rooms: tuple[str, ...] | None = None) -> int:
    """Return how many arrows lead down from a room at most, to ``rooms`` or to all."""
    lower = [other for other in ALLOWED.get(room, ()) if rooms is None or other in rooms]
    return 1 + max((level(other, rooms) for other in lower), default=-1)


def floors() -> list[list[str]]:
    """Return the rooms of the picture, the lowest floor first."""
    rooms = tuple(map(full, SHOWN))
    found: dict[int, list[str]] = {}
    for room in sorted(rooms):
        found.setdefault(level(room, rooms), []).append(short(room))
    return [*(found[number] for number in sorted(found)), list(ABOVE)]


def style(room: str) -> str:
    """Return the colour of a room, one of COLOURS, grey for what all need."""
    kinds: Mapping[str, tuple[str, ...]] = {
        "green": ("metal_kernels", "model", "engine", "runtime", "memory", "prediction", "kernel_check", "machine"),
        "violet": ("harmony", "reply", "grammars", "conversation", "requests", "tools", "sampling"),
        "warm": ("model_folder", "convert", "convert.remote", "hub", "config"),
        "box": (*ABOVE, "batch", "link", "sessions", "history", "screen", "bench", "inspection"),
    }
    return next((kind for kind, names in kinds.items() if room in names), "grey")


if __name__ == "__main__":
    write_part(PAGE, "rooms", table())
