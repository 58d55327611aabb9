"""One sequence's generation loop: one id at a time, with the next step already under way. Knows nothing about text."""

from collections.abc import Callable, Collection, Generator

import mlx.core as mx

from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.sampling import Drawn, Sampling, draw_token
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
) -> Generator[int]:
    """Read ``prompt`` and yield up to ``max_tokens`` ids that follow it. An id of ``stop`` is yielded and is the last.

    Close the iterator to stop early. ``cancelled`` is called between tokens and between prefill chunks. Either way
    ``context`` holds exactly what it has read and can be used again. Generation ends where the context is full. Raises
    ContextLengthError for a prompt that leaves no room for a token, and EngineError for a step that cannot be computed
    or whose logits are not finite.
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
    points = sampling.points()
    draw = draw_token(logits, sampling, next(points))
    mx.async_eval(draw)
    last = min(max_tokens, room)
    for count in range(1, last + 1):
        following: Drawn | None = None
        try:
            with context.undone_on_error():
                if count < last:
                    # The next step is launched before this token is read back, so that reading it costs no idle time.
                    following = _draw_following(context, draw.token, sampling, next(points))
                    mx.async_eval(following, context.cache.arrays())
                id = draw.id()
                if following is not None:
                    context.ids.append(id)
        except EngineError:
            context.rewind_to_mark()
            raise
        yield id
        if following is None or id in stop or (cancelled is not None and cancelled()):
            return
        draw = following


def _draw_following(context: Context, token: mx.array, sampling: Sampling, point: mx.array) -> Drawn:
    """Read ``token`` [1] into the cache and return the draw after it. Greedy decoding keeps no logits in memory."""
    x = context.model.decode(token, [context.cache])
    if sampling.temperature == 0:
        return Drawn(*context.model.greedy(x))
    return draw_token(context.model.logits(x), sampling, point)
