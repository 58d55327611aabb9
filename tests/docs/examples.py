"""The Python in the documentation: a page's blocks are run in order, in one namespace, as a reader would."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.pages import DOCS

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of Python, the line of the page where it begins, and what stands in the block of text right below it,
    which is what it prints; None where no such block follows."""

    code: str
    line: int
    prints: str | None


def examples(page: Path) -> list[Example]:
    """Return the blocks of a page in order."""
    text = page.read_text()
    return [Example(found[1], text[: found.start()].count("\n") + 2, found[2]) for found in BLOCK.finditer(text)]


def pages() -> list[Path]:
    """Return the pages that have Python."""
    return [page for page in sorted(DOCS.glob("*.md")) if examples(page)]


def run(page: Path) -> list[tuple[Example, str]]:
    """Run the blocks of a page. Return each with what it printed."""
    namespace: dict[str, object] = {"__name__": page.stem}
    printed = []
    for example in examples(page):
        out = io.StringIO()
        # As many lines before it as on the page, so that a traceback names the page's line.
        code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        printed.append((example, out.getvalue()))
    return printed
