"""The text of a paragraph as spans, and how much of an unfinished one already has its final meaning."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import category

from markdown_it import MarkdownIt
from markdown_it.common.html_re import HTML_TAG_RE
from markdown_it.token import Token

from gptoss_mlx.screen.parser import CLOSERS, inline, math_end, may_begin_math
from gptoss_mlx.screen.style import BOLD, CODE, DIM, ITALIC, STRUCK, UNDERLINE, Span, joined

STYLES = {"strong": BOLD, "em": ITALIC, "s": STRUCK, "link": UNDERLINE, "bracket": ""}
_PLAIN = re.compile(r"[^\\`*_~\[\]<&!$]+")
_QUOTED = re.compile(r"""(?<=\()\s*<[^<>\n]*>|(?<=\s)(?:"[^"]*"|'[^']*')""")
_ENTITY = re.compile(r"&#?\w+;")
_ENTITY_BEGINS = re.compile(r"&#?\w*\Z")
_AUTOLINK = re.compile(r"<[a-zA-Z][a-zA-Z0-9+.\-]*[:@][^<> ]*>")


def spans_of(parser: MarkdownIt, source: str, style: str = "") -> Iterator[Span]:
    """Yield the spans of ``source``. A line end in it is one in the spans. A link is followed by its address."""
    open_styles = [style]
    links: list[tuple[Token, list[str]]] = []
    for token in inline(parser, source):
        now = joined(*open_styles)
        kind, _, end = token.type.rpartition("_")
        shown = [_shown(token, now)]
        if end == "open":
            open_styles.append(STYLES[kind])
        elif end == "close":
            open_styles.pop()
        if token.type == "link_open":
            links.append((token, []))
        elif token.type == "link_close":
            link, text = links.pop()
            shown = [Span(_address(link, "href", "".join(text)), joined(*open_styles, DIM))]
        elif token.type == "image":
            shown = list(spans_of(parser, token.content.replace("\n", " "), joined(now, ITALIC)))
            shown.append(Span(_address(token, "src", token.content), joined(now, DIM)))
        for _, text in links:
            text += [span.text for span in shown]
        yield from shown


def _shown(token: Token, style: str) -> Span:
    match token.type:
        case "softbreak" | "hardbreak":
            return Span("\n")
        case "code_inline":
            return Span(token.content, joined(style, CODE))
        case _:
            return Span(token.content, style)


def _address(token: Token, name: str, text: str) -> str:
    """Return what follows a link or image: its address, if it is not ``text`` itself, and its title."""
    address = str(token.attrGet(name) or "")
    title = token.attrGet("title")
    shown = [] if address.removeprefix("mailto:") == text else [address]
    shown += [f'"{title}"'] if title else []
    before = " " if text else ""
    return f"{before}({' '.join(shown)})" if shown and any(shown) else ""


@dataclass
class _Run:
    """A run of asterisks, underscores or tildes that may begin emphasis. ``left`` of its ``length`` are open, and
    ``inner`` says whether it stands inside a word."""

    mark: str
    length: int
    left: int
    inner: bool


def settled(source: str) -> int:
    """Return the length of a beginning of ``source`` that means the same whatever follows.

    It ends before a letter or digit with nothing open. What stands after it can be parsed alone: no rule looks back
    behind a letter. A beginning that is too short is shown later, so what is uncertain counts as open.
    """
    safe = at = brackets = 0
    runs: list[_Run] = []
    while at < len(source):
        if plain := _PLAIN.match(source, at):
            text = plain[0]
            if not (runs or brackets) and (back := _last_letter(text)) is not None:
                safe = at + back
            at = plain.end()
            continue
        mark = source[at]
        following = source[at + 1 : at + 2]
        if mark == "`":
            after = _code_end(source, at)
        elif mark == "[" or (mark == "!" and following == "["):
            brackets += 1
            after = at + len(mark) + (mark == "!")
        elif mark == "]":
            brackets = max(0, brackets - 1)
            after = None if not following else _target_end(source, at + 1) if following == "(" else at + 1
        elif mark == "<":
            after = _tag_end(source, at)
        elif mark in "*_~":
            after = _read_run(source, at, runs)
        elif mark == "$" and following != "$":
            end = math_end(source, at)
            after = None if end == len(source) or may_begin_math(source, at) else end or at + 1
        elif mark == "\\" or mark == "$":
            after = math_end(source, at) if source[at : at + 2] in CLOSERS else at + 2
        elif mark == "&":
            entity = _ENTITY.match(source, at)
            after = entity.end() if entity else None if _ENTITY_BEGINS.match(source, at) else at + 1
        else:  # "!" before no bracket
            after = at + 1 if following else None
        if after is None or after > len(source):
            break
        at = after
    return safe


def _last_letter(text: str) -> int | None:
    return next((at for at in range(len(text) - 1, -1, -1) if text[at].isalnum()), None)


def _code_end(source: str, at: int) -> int | None:
    """Return where the code ends that a run of backticks begins, or None while it may not have ended."""
    length = _run_length(source, at)
    end = re.compile(rf"(?<!`)`{{{length}}}(?!`)").search(source, at + length)
    return end.end() if end and end.end() < len(source) else None


def _target_end(source: str, at: int) -> int | None:
    """Return where a link's address in parentheses ends, or None while it has not ended."""
    depth = 0
    while at < len(source):
        quoted = _QUOTED.match(source, at)
        if source[at] == "\\":
            at += 1
        elif quoted:
            at = quoted.end() - 1
        elif source[at] == "<" and source[at - 1] == "(":
            return None
        elif source[at] in "()":
            depth += 1 if source[at] == "(" else -1
            if not depth:
                return at + 1
        at += 1
    return None


def _tag_end(source: str, at: int) -> int | None:
    """Return where an HTML tag or an address in angle brackets ends, or where text goes on if it is none. None while
    it may become one."""
    following = source[at + 1 : at + 2]
    if following and not (following.isalpha() or following in "/!?"):
        return at + 1
    if tag := HTML_TAG_RE.match(source[at:]):
        return at + tag.end()
    if link := _AUTOLINK.match(source, at):
        return link.end()
    end = source.find(">", at)
    if end < 0 or following in ("!", "?") or any(quote in source[at:end] for quote in "\"'"):
        return None
    return at + 1


def _read_run(source: str, at: int, runs: list[_Run]) -> int | None:
    """Let a run of emphasis marks close open ``runs``, or add it to them, by CommonMark's rules of flanking. Return
    its end, or None if more of it may follow."""
    mark = source[at]
    length = _run_length(source, at)
    end = at + length
    if end == len(source):
        return None
    before, after = source[at - 1 : at] or " ", source[end]
    left = not after.isspace() and (not _punctuation(after) or before.isspace() or _punctuation(before))
    right = not before.isspace() and (not _punctuation(before) or after.isspace() or _punctuation(after))
    opens = left and (mark != "_" or not right or _punctuation(before))
    closes = right and (mark != "_" or not left or _punctuation(after))
    left_over = length
    while closes and left_over:
        match = next((n for n in range(len(runs) - 1, -1, -1) if _pairs(runs[n], mark, length, opens)), None)
        if match is None:
            break
        taken = min(left_over, runs[match].left)
        left_over -= taken
        runs[match].left -= taken
        del runs[match + 1 if runs[match].left else match :]
    if opens and left_over:
        runs.append(_Run(mark, length, left_over, closes))
    return end


def _pairs(run: _Run, mark: str, length: int, opens: bool) -> bool:
    """Return whether a closing run pairs with the open ``run``: CommonMark's rules 9 and 10 of emphasis."""
    thirds = (run.length + length) % 3 == 0 and not run.length % 3 == length % 3 == 0
    return run.mark == mark and not (thirds and (run.inner or opens))


def _run_length(source: str, at: int) -> int:
    return len(source) - at - len(source[at:].lstrip(source[at]))


def _punctuation(char: str) -> bool:
    return category(char)[0] in "PS"
