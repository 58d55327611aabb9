"""The Markdown parser, markdown-it-py's, set so that no word is lost and mathematics stay as they are written.

Definitions of references (``[a]: URL``) are no rule here, so they show as text, and so do the links that use them.
"""

import re
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_MARKS = re.compile(r"[*_~]")
_AMBIGUOUS = "ambiguous"
CLOSERS = {"\\[": "\\]", "\\(": "\\)", "$$": "$$"}
_DOLLAR = r"\$(?![\s$]|\d[\d.,]*[kKMB]?[\s.,;:!?)])"
DOLLARS = re.compile(_DOLLAR + r"(?=[^$\n`]{0,119}\$)[^$\n`]*(?<!\s)\$(?!\d)")
"""Mathematics of at most 120 characters between single dollars, by pandoc's rule for them. A price is none."""
_DOLLARS_BEGIN = re.compile(_DOLLAR + r"[^$\n`]{0,119}\Z")

MAX_NESTING = 60
"""Containers in containers that are parsed. The parser recurses, and drops what lies deeper."""


def make_parser(*, tables: bool = True) -> MarkdownIt:
    """Return a parser of CommonMark with tables and struck text."""
    parser = MarkdownIt("commonmark", {"maxNesting": MAX_NESTING}).enable("strikethrough").disable("reference")
    if tables:
        parser.enable("table")
    parser.block.ruler.before("fence", "math", _math_block, {"alt": ["paragraph"]})
    parser.inline.ruler.before("escape", "math", _math)
    parser.inline.ruler.after("image", "bracket", _bracket)
    return parser


@cache
def _without_emphasis() -> MarkdownIt:
    return make_parser().disable(["emphasis", "strikethrough"])


def blocks(parser: MarkdownIt, source: str) -> list[Token]:
    """Return the tokens of the blocks of ``source``, with their text not parsed."""
    tokens: list[Token] = []
    parser.block.parse(source, parser, {}, tokens)
    return tokens


def inline(parser: MarkdownIt, source: str) -> list[Token]:
    """Return the tokens of a text. Where emphasis may end inside a reference or after it, there is none."""
    env: dict[str, bool] = {}
    tokens = parser.parseInline(source, env)[0].children or []
    return _without_emphasis().parseInline(source, {})[0].children or [] if env.get(_AMBIGUOUS) else tokens


def math_end(source: str, at: int) -> int | None:
    """Return where the mathematics end that begin at ``at``. None if none begin there, or their end is missing."""
    closer = CLOSERS.get(source[at : at + 2])
    if closer is None:
        found = DOLLARS.match(source, at)
        return found.end() if found else None
    end = source.find(closer, at + 3)
    return None if end < 0 else end + 2


def may_begin_math(source: str, at: int) -> bool:
    """Return whether a dollar at the end of an unfinished line may yet begin mathematics."""
    return bool(_DOLLARS_BEGIN.match(source, at))


def _math(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "\\$":
        return False
    end = math_end(state.src, state.pos)
    if end is None or end > state.posMax:
        return False
    if not silent:
        state.push("math", "", 0).content = state.src[state.pos : end]
    state.pos = end
    return True


def _bracket(state: StateInline, silent: bool) -> bool:
    """Read text in brackets by itself. It may be a reference whose definition comes later, and then no emphasis that
    begins outside could end inside."""
    if silent or state.src[state.pos] != "[":
        return False
    end = state.md.helpers.parseLinkLabel(state, state.pos)
    if end < 0:
        return False
    begun = sum(mark.open for mark in state.delimiters) - sum(mark.close and not mark.open for mark in state.delimiters)
    if begun > 0 and _MARKS.search(state.src, state.pos, end):
        state.env[_AMBIGUOUS] = True
    after = state.posMax
    state.pos, state.posMax = state.pos + 1, end
    state.push("bracket_open", "", 1).content = "["
    state.md.inline.tokenize(state)
    state.push("bracket_close", "", -1).content = "]"
    state.pos, state.posMax = end + 1, after
    return True


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read lines of mathematics, up to their closing line or a blank one, so that a minus sign begins no list."""
    if state.is_code_block(start):
        return False
    first = _line(state, start)
    opener = first[:2]
    if opener not in ("\\[", "$$") or CLOSERS[opener] in first[2:]:
        return False
    if silent:
        return True
    line = start + 1
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        line += 1
        if CLOSERS[opener] in _line(state, line - 1):
            break
    token = state.push("math_block", "", 0)
    token.content = state.getLines(start, line, state.blkIndent, True)
    token.map = [start, line]
    state.line = line
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]
