"""A budget for the thought: when it is spent, the thought is closed and the answer opened, or the call that must come.

What closes it is forced, as ids, where the grammar allows it. So it never cuts a character, a header or an answer.
"""

from dataclasses import dataclass

import numpy as np

from gptoss_mlx.grammars.grammar import Grammar
from gptoss_mlx.grammars.vocabulary import Matcher, Vocabulary
from gptoss_mlx.harmony import Tokenizer


@dataclass(frozen=True)
class ThoughtBudget:
    """A constraint under harmony's grammar whose thoughts end after ``most`` ids, headers included. An
    ``engine.constraint.Constraint``."""

    matcher: Matcher
    most: int
    closings: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, matcher: Matcher, most: int, tokenizer: Tokenizer) -> "ThoughtBudget":
        """Return it for a matcher that was made from ``reply.reply``."""
        special = tokenizer.special
        again = (special["<|end|>"], special["<|start|>"], *tokenizer.encode("assistant"))
        answer = (*again, special["<|channel|>"], *tokenizer.encode("final"), special["<|message|>"])
        call = (*again, *tokenizer.encode(" to"))  # where no answer may come
        return cls(matcher, most, (answer, call))

    @property
    def end(self) -> int:
        return self.matcher.end

    @property
    def length(self) -> int:
        return self.matcher.length

    def accept(self, id: int) -> None:
        self.matcher.accept(id)

    def forced(self) -> list[int]:
        if self.length >= self.most:
            for closing in self.closings:
                if self.matcher.allows(closing):
                    return list(closing)
        return self.matcher.forced()

    def mask(self) -> np.ndarray:
        return self.matcher.mask()

    def rewind(self, length: int) -> None:
        self.matcher.rewind(length)


def constraint(vocabulary: Vocabulary, grammar: Grammar, tokenizer: Tokenizer) -> Matcher | ThoughtBudget:
    """Return what holds one row to ``grammar``, and its thought to what that allows. Raises GrammarError where it takes
    too much work."""
    matcher = vocabulary.constraint(grammar)
    return matcher if grammar.thought is None else ThoughtBudget.of(matcher, grammar.thought, tokenizer)
