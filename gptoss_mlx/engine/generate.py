"""Token ids in, token ids out, one at a time and one step ahead. Knows nothing about text."""

from collections.abc import Callable, Collection, Iterator

import mlx.core as mx

from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.sampling import Drawn, Sampling, drawn
from gptoss_mlx.errors import ContextLengthError, EngineError


def generate(
    context: Context,
    prompt: list[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: Collection[int],
    prefill_chunk: int = PREFILL_CHUNK,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[int]:
    """Yield up to ``max_tokens`` ids after ``prompt``; an id of ``stop`` is yielded and ends it.

    Closing the iterator stops it. ``cancelled`` is asked between tokens and between prefill chunks. Either way
    ``context`` stays true to what it has read, and can be used again. Raises ContextLengthError for a prompt that
    leaves no room for a token; where the context fills up during generation, generation ends. Raises EngineError for
    what cannot be computed, and in place of an id whose logits are not finite.
    """
    limit = context.model.config.max_position_embeddings
    room = limit - len(prompt)
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {len(prompt):,} tokens and the model's context holds {limit:,}, its answer's included; "
            "shorten it, or begin a new conversation"
        )
    logits = context.read(prompt, chunk=prefill_chunk, cancelled=cancelled, progress=progress)
    context.mark()
    keys = sampling.keys()
    draw = drawn(logits, sampling, next(keys))
    mx.async_eval(draw)
    last = min(max_tokens, room)
    for count in range(1, last + 1):
        following: Drawn | None = None
        try:
            with context.undone_on_error():
                if count < last:
                    # The next step is on its way before this token is looked at: reading it back costs no idle time.
                    following = _following(context, draw.token, sampling, next(keys))
                    mx.async_eval(following, context.cache.arrays())
                value = draw.id()
                if following is not None:
                    context.ids.append(value)
        except EngineError:
            context.back_to_mark()
            raise
        yield value
        if following is None or value in stop or (cancelled is not None and cancelled()):
            return
        draw = following


def _following(context: Context, token: mx.array, sampling: Sampling, key: mx.array) -> Drawn:
    """What is drawn after ``token`` [1] has been read. Greedy decoding needs no logits in memory."""
    x = context.model(token[:, None], context.cache)[:, 0]
    if sampling.temperature == 0:
        return Drawn(*context.model.greedy(x))
    return drawn(context.model.logits(x), sampling, key)
