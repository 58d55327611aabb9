"""What a text does inside a model, in figures: which experts it uses, and how well each token was foreseen.

Knows a runtime and its tokenizer. Knows no terminal and draws nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Message, System, Tokenizer, render
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.tracing import Trace, Tracer

QUESTION = "What is 347 + 58?"
"""What is asked where the user gives neither a question nor a text. The bundled model can answer it, too."""
MOST_REPLY = 512
"""Tokens of a reply that are inspected at most."""

OnRead = Callable[[int, int], None]
"""Called with (tokens read, tokens in all)."""


@dataclass(frozen=True)
class Passage:
    """A text as ids. Those before ``begin`` are a prompt, which the model did not write."""

    ids: list[int]
    begin: int = 0


@dataclass(frozen=True)
class ExpertUse:
    """How often each expert was chosen, and how decided the routers were.

    ``counts`` [layers, E] are tokens that chose the expert. ``choice_bits`` [layers] is the mean entropy, in bits, of
    the softmax over all of a token's router logits: 0 where one expert has it all, log2 of E where all are alike.
    """

    tokens: int
    counts: np.ndarray
    choice_bits: np.ndarray

    @property
    def load(self) -> np.ndarray:
        """Return each expert's share of its layer's choices, [layers, E]."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @property
    def in_use(self) -> np.ndarray:
        """Return how many experts an even load of the same entropy would use, [layers]."""
        return np.exp2(_bits(self.load))


@dataclass(frozen=True)
class Candidate:
    """A token that could have come, its text, and the probability that the model gave it."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Seen:
    """One token of a text: its place, what it spells, its surprise in bits, and the likeliest tokens at its place. The
    first of a text has no surprise, because nothing precedes it."""

    at: int
    id: int
    text: str
    surprise: float | None
    candidates: tuple[Candidate, ...]


def text_passage(runtime: Runtime, text: str) -> Passage:
    """Return a text as it stands, without harmony's markers. Raises UsageError for one of fewer than two tokens."""
    ids = runtime.tokenizer.encode(text)
    if len(ids) < 2:
        raise UsageError("the text is too short: nothing precedes its first token, so it needs two or more")
    return Passage(ids)


def answered(runtime: Runtime, question: str) -> Passage:
    """Ask the model at temperature 0 without a date, and return the conversation. Raises ContextLengthError and
    EngineError."""
    prompt = render([Message("system", System("low")), Message("user", question)], runtime.tokenizer)
    return Passage([*prompt, *runtime.generate(prompt, max_tokens=MOST_REPLY, temperature=0)], len(prompt))


def expert_use(runtime: Runtime, passage: Passage, progress: OnRead) -> ExpertUse:
    """Read a text and count its choices. Raises ContextLengthError, EngineError and ModelFolderError."""
    config = runtime.config
    tracer = Tracer(runtime.context(), passage.ids, what=("router_logits", "experts"), chunk=runtime.chunk)
    counts = np.zeros((config.num_hidden_layers, config.num_local_experts), np.int64)
    bits = np.zeros(config.num_hidden_layers)
    while not tracer.done:
        part = tracer.read()
        assert part.experts is not None, "asked for"
        assert part.router_logits is not None, "asked for"
        for layer, chosen in enumerate(part.experts):
            counts[layer] += np.bincount(chosen.reshape(-1), minlength=config.num_local_experts)
        likely = np.exp(part.router_logits - part.router_logits.max(axis=-1, keepdims=True))
        bits += _bits(likely / likely.sum(axis=-1, keepdims=True)).sum(axis=1)
        progress(len(tracer.context.ids), len(passage.ids))
    return ExpertUse(len(passage.ids), counts, bits / len(passage.ids))


def seen_tokens(runtime: Runtime, passage: Passage, top: int, progress: OnRead) -> list[Seen]:
    """Read a text and return its tokens from ``begin`` on, with ``top`` candidates each. Raises what ``expert_use``
    raises, and UsageError for ``top``."""
    tracer = Tracer(runtime.context(), passage.ids, what=("candidates", "surprise"), top=top, chunk=runtime.chunk)
    found: list[Seen] = []
    before: tuple[Candidate, ...] = ()
    while not tracer.done:
        part = tracer.read()
        assert part.surprise is not None, "asked for"
        for id, surprise, candidates in zip(part.ids, part.surprise, _candidates(part, runtime.tokenizer), strict=True):
            at = len(found)
            bits = None if math.isnan(surprise) else max(0.0, float(surprise) / math.log(2))
            found.append(Seen(at, id, spelled(runtime.tokenizer, id), bits, before))
            before = candidates
        progress(len(tracer.context.ids), len(passage.ids))
    return found[passage.begin :]


def perplexity(tokens: Sequence[Seen]) -> float:
    """Return the exponential of the mean surprise in natural logarithms, of those tokens that have one."""
    bits = [token.surprise for token in tokens if token.surprise is not None]
    return 2 ** (sum(bits) / len(bits))


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """Return what a token spells, with markers by name. Bytes that are no whole character are written as <E2>."""
    data = tokenizer.decode_bytes([id], markers=True)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in data)


def _candidates(part: Trace, tokenizer: Tokenizer) -> list[tuple[Candidate, ...]]:
    """Return what could have followed each id."""
    assert part.candidates is not None, "asked for"
    assert part.candidate_logprobs is not None, "asked for"
    return [
        tuple(
            Candidate(int(id), spelled(tokenizer, int(id)), math.exp(logprob))
            for id, logprob in zip(ids, logprobs, strict=True)
        )
        for ids, logprobs in zip(part.candidates, part.candidate_logprobs, strict=True)
    ]


def _bits(shares: np.ndarray) -> np.ndarray:
    """Return the entropy in bits along the last axis."""
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=-1)
