"""The parts of the documentation that code writes: between a marker with their name and the next end. Knows no part."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


def part_of(page: Path, name: str) -> str:
    """Return the part ``name`` as it stands in a page."""
    found = _pattern(name).search(page.read_text())
    assert found, f"{page} has no part '{name}'"
    return found[2].strip("\n")


def write_part(page: Path, name: str, text: str) -> None:
    """Write the part ``name`` of a page."""
    part_of(page, name)
    page.write_text(_pattern(name).sub(lambda found: f"{found[1]}\n{text}\n\n{found[3]}", page.read_text()))


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: made by `make diagrams` -->\n)(.*?)(<!-- end of {name} -->)", re.DOTALL)
