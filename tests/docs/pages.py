"""The project's pages as their authors wrote them: README and what is below ``docs``. Knows Markdown, not MkDocs."""

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the line in the file at which its code begins, from 1."""

    language: str
    code: str
    line: int


def all_pages() -> list[Path]:
    return [README, *sorted(DOCS.rglob("*.md"))]


@cache
def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def blocks(page: Path) -> list[Block]:
    return [
        Block(token.info.strip(), token.content, token.map[0] + 2)
        for token in _tokens(page)
        if token.type == "fence" and token.map
    ]


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead, as they are written."""
    inner = [child for token in _tokens(page) for child in token.children or ()]
    return [str(one.attrs[name]) for one in inner for name in ("href", "src") if name in one.attrs]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings that GitHub and MkDocs both make."""
    tokens = _tokens(page)
    titles = [
        "".join(child.content for child in inline.children or ())
        for heading, inline in pairwise(tokens)
        if heading.type == "heading_open"
    ]
    words = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", one) for one in words} & {one.replace(" ", "-") for one in words}
