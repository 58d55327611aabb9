"""A checked grammar in Lark, which travels as text, and the grammars that a user writes. Knows no vocabulary."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gptoss_mlx.errors import GrammarError, one_line, quoted
from gptoss_mlx.grammars.rules import Rules, regex

if TYPE_CHECKING:
    from llguidance import LLTokenizer

MOST_TEXT = 1 << 17
"""Characters of a grammar or a regex. Reading as many takes llguidance a second."""
MOST_RULES = 500
"""Of a grammar that a user writes. llguidance recurses from rule to rule, and overflows a stack of 8 MB at 2,000."""


@dataclass(frozen=True)
class Grammar:
    """What a text must be, in llguidance's Lark. ``warnings`` say what of the source is not enforced. ``parts`` are the
    names and texts of further grammars, to which ``@name`` refers. ``thought`` is for grammars of whole replies: the
    most tokens before the answer or the call begins, None for any number."""

    lark: str
    warnings: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    thought: int | None = None

    @property
    def llguidance(self) -> str:
        """Return the form that llguidance's matcher takes."""
        parts = [{"name": name, "lark_grammar": text} for name, text in self.parts]
        return json.dumps({"grammars": [{"lark_grammar": self.lark}, *parts]})

    def to_text(self) -> str:
        """Return all but the warnings as text, from which another process makes the same constraint."""
        return json.dumps({"lark": self.lark, "parts": self.parts, "thought": self.thought})

    @classmethod
    def from_text(cls, text: str) -> "Grammar":
        """Return the grammar that ``to_text`` wrote, unchecked: making a constraint of it checks it. Raises
        GrammarError."""
        try:
            given = json.loads(text)
            return cls(
                _typed(given["lark"], str),
                parts=tuple((_typed(name, str), _typed(part, str)) for name, part in given["parts"]),
                thought=None if given["thought"] is None else _typed(given["thought"], int),
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise GrammarError(f"{quoted(text, 40)} is no grammar in the form of this version") from error


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{quoted(value, 40)} is no {kind.__name__}")
    return value


@lru_cache(maxsize=64)
def from_regex(pattern: str) -> Grammar:
    """Return the grammar of the texts that ``pattern`` matches whole. Raises GrammarError."""
    if len(pattern) > MOST_TEXT:
        raise GrammarError(f"the regex has more than {MOST_TEXT:,} characters")
    return _checked(f"%llguidance {{}}\nstart: TEXT\nTEXT: {regex(pattern)}\n", "the regex cannot be enforced")


@lru_cache(maxsize=64)
def from_lark(text: str) -> Grammar:
    """Return a grammar that a user wrote, in Lark as llguidance reads it. Raises GrammarError."""
    if len(text) > MOST_TEXT:
        raise GrammarError(f"the grammar has more than {MOST_TEXT:,} characters")
    if sum(":" in line for line in text.splitlines()) > MOST_RULES:  # each rule stands on a line of its own
        raise GrammarError(f"the grammar has more than {MOST_RULES} rules")
    return _checked(text, "the grammar cannot be enforced")


def _checked(text: str, otherwise: str) -> Grammar:
    try:
        problem = problem_of(text)
    except UnicodeEncodeError as error:
        raise GrammarError(f"{otherwise} (it contains half a surrogate pair, which is not text)") from error
    if problem:
        raise GrammarError(f"{otherwise} ({problem})")
    return Grammar(text)


def problem_of(lark: str) -> str | None:
    """Return in one line why llguidance does not take a grammar, or None. A grammar of which no text can begin is one
    that it does not take, which only a first mask shows."""
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    matcher = LLMatcher(_bytes(), LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return None
    error = matcher.get_error()
    return "nothing matches it" if error.startswith("NoExtension") else one_line(ValueError(error))


@lru_cache(maxsize=1)
def _bytes() -> "LLTokenizer":
    """Return a vocabulary whose tokens are bytes."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def matches_something(patterns: Iterable[str], other_than: Iterable[str] = ()) -> bool:
    """Return whether a regex engine takes all of ``patterns`` and some text matches them, and none of
    ``other_than``."""
    return _matches_something(tuple(patterns), tuple(other_than))


@lru_cache(maxsize=4096)
def _matches_something(patterns: tuple[str, ...], other_than: tuple[str, ...]) -> bool:
    rules = Rules()
    start = rules.name()
    terminal = rules.terminal(*patterns, other_than=other_than)
    definition = next(iter(rules.terminals))
    return problem_of(f"%llguidance {{}}\n{start}: {terminal}\nstart: {start}\n{terminal}: {definition}\n") is None
