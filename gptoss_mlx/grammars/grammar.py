"""A checked grammar in Lark, and those that a user writes. Knows no vocabulary."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gptoss_mlx.errors import GrammarError, one_line
from gptoss_mlx.grammars.rules import Rules, regex

MOST_TEXT = 1 << 20
"""Characters of a grammar or a regex."""


@dataclass(frozen=True)
class Grammar:
    """What a text must be, in llguidance's Lark. ``warnings`` say what of the source is not enforced. ``parts`` are the
    names and texts of further grammars, to which ``@name`` refers."""

    lark: str
    warnings: tuple[str, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def llguidance(self) -> str:
        """Return the form that llguidance's matcher takes."""
        parts = [{"name": name, "lark_grammar": text} for name, text in self.parts]
        return json.dumps({"grammars": [{"lark_grammar": self.lark}, *parts]})


def from_regex(pattern: str) -> Grammar:
    """Return the grammar of the texts that ``pattern`` matches whole. Raises GrammarError."""
    if len(pattern) > MOST_TEXT:
        raise GrammarError(f"the regex has more than {MOST_TEXT:,} characters")
    return _checked(f"%llguidance {{}}\nstart: TEXT\nTEXT: {regex(pattern)}\n", "the regex cannot be enforced")


def from_lark(text: str) -> Grammar:
    """Return a grammar that a user wrote, in Lark as llguidance reads it. Raises GrammarError."""
    if len(text) > MOST_TEXT:
        raise GrammarError(f"the grammar has more than {MOST_TEXT:,} characters")
    return _checked(text, "the grammar cannot be enforced")


def _checked(text: str, otherwise: str) -> Grammar:
    if problem := problem_of(text):
        raise GrammarError(f"{otherwise} ({problem})")
    return Grammar(text)


def problem_of(lark: str) -> str | None:
    """Return in one line why llguidance does not take a grammar, or None."""
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(lark))
    return one_line(ValueError(messages[0])) if failed else None


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
