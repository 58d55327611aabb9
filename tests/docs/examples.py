"""The Python in the documentation: a page's blocks are run in order, in one namespace, as a reader would."""

import contextlib
import io
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

from tests.docs.pages import Block, all_pages, blocks


class Day(date):
    """A date that is always the one at which the pages were written, because what a model says may depend on it."""

    @classmethod
    def today(cls) -> "Day":
        return cls(2026, 11, 27)


@dataclass(frozen=True)
class Example:
    """A block of Python, and what stands in the block of text right below it, which is what it prints; None where no
    such block follows."""

    block: Block
    prints: str | None


def examples(page: Path) -> list[Example]:
    """Return the blocks of Python of a page in order."""
    found = blocks(page)
    pairs = pairwise([*found, Block("", "", 0)])
    return [Example(one, _printed(one, after)) for one, after in pairs if one.language == "python"]


def _printed(block: Block, after: Block) -> str | None:
    # The closing fence, a line without text and the opening fence lie between the two.
    below = block.line + block.code.count("\n") + 3
    return after.code if after.language == "text" and after.line == below else None


def pages() -> list[Path]:
    """Return the pages whose only commands are Python."""
    return [page for page in all_pages() if {"sh", "python"} & {block.language for block in blocks(page)} == {"python"}]


def run(page: Path) -> list[tuple[Example, str]]:
    """Run the blocks of a page. Return each with what it printed."""
    namespace: dict[str, object] = {"__name__": page.stem}
    printed = []
    for example in examples(page):
        out = io.StringIO()
        # As many lines before it as on the page, so that a traceback names the page's line.
        code = compile("\n" * (example.block.line - 1) + example.block.code, str(page), "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        printed.append((example, out.getvalue()))
    return printed
