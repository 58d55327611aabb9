"""One sequence's generation: its prompt, then one id at a time. Knows nothing about text."""

from collections.abc import Callable, Collection, Generator

from gptoss_mlx.engine.constraint import Constraint
from gptoss_mlx.engine.context import PREFILL_CHUNK, Context
from gptoss_mlx.engine.stepping import Failed, Row, Stepper
from gptoss_mlx.errors import ContextLengthError
from gptoss_mlx.sampling import Sampling


def generate(
    context: Context,
    prompt: list[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    stop: Collection[int],
    constraint: Constraint | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Generator[int]:
    """Read ``prompt`` and yield up to ``max_tokens`` ids that follow it. An id of ``stop`` is yielded and is the last.

    With a ``constraint`` every id is one that it allows, and its end is one of ``stop``; ids that ``max_tokens`` cut
    off may not be complete. Close the iterator to stop early. ``cancelled`` is called between tokens and between
    prefill chunks. Either way ``context`` holds exactly what it has read and can be used again. Generation ends where
    the context is full. Raises ContextLengthError for a prompt that leaves no room for a token, EngineError for a step
    that cannot be computed or whose logits are not finite, ConstraintError where the constraint leaves nothing to draw,
    and ModelFolderError where experts cannot be read.
    """
    sampling.check(context.model.config.vocab_size)
    limit = context.model.config.max_position_embeddings
    room = limit - len(prompt)
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {len(prompt):,} tokens and the model's context holds {limit:,}, its answer's included; "
            "shorten it, or begin a new conversation"
        )
    logits = context.read(prompt, chunk=prefill_chunk, cancelled=cancelled, progress=progress)
    context.mark()
    stepper = Stepper(context.model)
    row = Row(None, prompt, context, min(max_tokens, room), sampling, frozenset(stop), constraint=constraint)
    outcomes = stepper.begin(row, logits)
    while True:
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error
            yield outcome.token
            if outcome.finished or (cancelled is not None and cancelled()):
                return
        outcomes = stepper.step()
