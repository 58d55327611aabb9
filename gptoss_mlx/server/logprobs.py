"""How likely the tokens of an answer were, in the form of OpenAI's APIs."""

from typing import Any

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.score import Score

LEAST = -9999.0
"""Stands for what is not likely at all, because JSON has no infinity. OpenAI uses it too."""

Entry = dict[str, Any]


def entry(id: int, score: Score | None, tokenizer: Tokenizer) -> Entry:
    """Return what is said of a token. One that a grammar forced, which has no ``score``, was certain."""
    if score is None:
        return _token(id, 0.0, tokenizer) | {"top_logprobs": []}
    likeliest = [_token(other, logprob, tokenizer) for other, logprob in score.likeliest]
    return _token(id, score.logprob, tokenizer) | {"top_logprobs": likeliest}


def _token(id: int, logprob: float, tokenizer: Tokenizer) -> Entry:
    data = tokenizer.decode_bytes([id], markers=True)
    return {"token": data.decode(errors="replace"), "logprob": max(logprob, LEAST), "bytes": list(data)}
