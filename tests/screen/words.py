"""What a Markdown source says, by markdown-it-py's own tokens: the judge of what must be on the screen.

Nothing of ours is imported. The parser has its default rules, references among them, and HTML is text like any other.
"""

import re
from unicodedata import category, normalize

from markdown_it import MarkdownIt

PARSER = MarkdownIt("commonmark", {"maxNesting": 200}).enable(["table", "strikethrough"])


def said(source):
    """Return the pieces of text in order. A line end is one where the author ended a line."""
    pieces = []
    cell = False
    for token in PARSER.parse(source):
        cell = token.type in ("th_open", "td_open") or (cell and token.type == "inline")
        if token.type in ("fence", "code_block", "html_block"):
            pieces += [token.info.strip(), *token.content.splitlines(keepends=True)]
        elif token.type == "inline":
            pieces += [*_inline(token.children or []), "" if not token.content else " " if cell else "\n"]
    return [piece for piece in pieces if piece]


def addresses(source):
    """Return the addresses of the links and images that stand in the text itself."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"]).disable("reference")
    tokens = [child for token in parser.parse(source) for child in _all(token.children or [])]
    return [
        str(token.attrs.get("href") or token.attrs.get("src") or "").removeprefix("mailto:")
        for token in tokens
        if token.attrs
    ]


def _all(tokens):
    for token in tokens:
        yield token
        yield from _all(token.children or [])


def _inline(tokens):
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            yield "\n"
        elif token.type == "image":
            yield from (piece.replace("\n", " ") for piece in _inline(token.children or []))
        else:
            yield token.content


def missing(source, lines, *, emulated=True):
    """Return the first characters of what ``source`` says that are not on the screen in order, or None. Line ends
    count, other white space does not, because the terminal has no tabs and the parser strips.
    On an ``emulated`` terminal marks do not count that combine with the character before, because pyte drops some."""
    screen = normalize("NFC", "\n".join(lines))
    at = 0
    wanted = normalize("NFC", "".join(said(source)))
    for number, char in enumerate(wanted):
        if char in " \t\x0b\x0c\xa0" or (not char.isprintable() and char != "\n"):
            continue
        if emulated and category(char)[0] == "M":
            continue
        if char == "\n" and not wanted[number + 1 :].strip():
            break
        found = screen.find(char, at)
        if found < 0:
            return wanted[max(0, number - 20) : number + 20]
        at = found + 1
    return None


def added(source, lines):
    """Return how many more characters the screen has than the source, white space and rules apart."""
    visible = re.sub(r"[\s│•─]", "", "".join(lines))
    return len(visible) - len(re.sub(r"\s", "", source))
