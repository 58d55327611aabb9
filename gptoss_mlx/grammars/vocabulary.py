"""What a model's tokens spell, in the form that masks are made from, and the constraints made with it.

It takes seconds to build for the published vocabulary, so a thread builds it when it is first wanted. Knows no
messages.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock, Thread

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from gptoss_mlx.errors import ConstraintError, GrammarError, one_line
from gptoss_mlx.grammars.grammar import Grammar
from gptoss_mlx.harmony import Tokenizer

KEPT = 64
"""Compiled grammars that are kept."""
USES = 256
"""Rows after which a grammar is compiled again. They all share what its lexer has found out, which llguidance bounds.
Once that is full, every row would fail."""
FUEL = 4_000_000
"""Work of the lexer in one step, of which it does 14,000 a millisecond. llguidance's own bound is a twentieth, and one
published schema in 267 has patterns that reach it."""


class Vocabulary:
    """A tokenizer's vocabulary for masks. ``<|return|>`` ends what is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.end = tokenizer.special["<|return|>"]
        self._tokenizer = tokenizer
        self._built: Future[LLTokenizer] | None = None
        self._compiled: OrderedDict[str, tuple[LLMatcher, int]] = OrderedDict()  # and how often it may be used yet
        self._lock = Lock()

    def build(self) -> Future[LLTokenizer]:
        """Begin to build in a thread, unless that has begun. Return what is done when ``constraint`` need not wait."""
        with self._lock:
            if self._built is None:
                self._built = Future()
                Thread(target=self._build, args=[self._built], name="vocabulary", daemon=True).start()
            return self._built

    def _build(self, built: "Future[LLTokenizer]") -> None:
        try:
            # In two parts, because llguidance lets no other thread run in either: of the published vocabulary each
            # takes a processor half a second.
            plain = LLTokenizer(TokenizerWrapper(_Tokens(self._tokenizer)), eos_token=[self.end], slices=[])
            built.set_result(plain.with_slices(LLTokenizer.general_slices()))
        except BaseException as error:
            built.set_exception(error)

    def constraint(self, grammar: Grammar) -> "Matcher":
        """Return a constraint for one row. Waits for the vocabulary. A grammar is compiled once for many rows. Raises
        GrammarError where it takes too much work."""
        tokens = self.build().result()
        text = grammar.llguidance
        with self._lock:
            compiled, left = self._compiled.get(text, (None, USES))
        if compiled is None or not left:
            limits = LLParserLimits(verbose_errors=False, step_lexer_fuel=FUEL)
            compiled, left = LLMatcher(tokens, text, log_level=0, limits=limits), USES
            if compiled.is_error():
                raise GrammarError(f"the grammar cannot be enforced ({one_line(ValueError(compiled.get_error()))})")
        with self._lock:
            self._compiled[text] = compiled, left - 1
            self._compiled.move_to_end(text)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return Matcher(compiled.deep_copy(), self.end)


class Matcher:
    """A grammar's state in one row: an ``engine.constraint.Constraint``."""

    def __init__(self, matcher: LLMatcher, end: int) -> None:
        self._matcher = matcher
        self._end = end
        self._length = 0

    @property
    def end(self) -> int:
        return self._end

    @property
    def length(self) -> int:
        return self._length

    @property
    def complete(self) -> bool:
        """Return whether the row may end here."""
        return self._matcher.is_accepting()

    def allows(self, ids: Sequence[int]) -> bool:
        """Return whether all of ``ids`` may follow, one after the other."""
        return self._matcher.validate_tokens(list(ids)) == len(ids)

    def accept(self, id: int) -> None:
        if not self._matcher.consume_token(id):
            raise ConstraintError(f"the grammar cannot go on ({one_line(ValueError(self._matcher.get_error()))})")
        self._length += 1

    def forced(self) -> list[int]:
        if self._matcher.is_stopped():
            self._check()
            return [self._end]
        return self._matcher.compute_ff_tokens()

    def mask(self) -> np.ndarray:
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)
        self._check()
        return mask

    def rewind(self, length: int) -> None:
        if length < self._length:
            self._matcher.rollback(self._length - length)
            self._length = length

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"the grammar cannot go on ({one_line(ValueError(self._matcher.get_error()))})")


class _Tokens:
    """A tokenizer as llguidance reads it. Markers are spelled out, and told apart by their ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = {id: text.encode() for text, id in tokenizer.special.items()}
        self.eos_token_id = tokenizer.special["<|return|>"]
        self.bos_token_id = None
        self.tokens = [names.get(id) or tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = list(names)
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(text.decode() if isinstance(text, bytes) else text)
