"""This runtime as a program to be measured: ``python -m gptoss_mlx.bench.worker``. ``peer`` describes the questions."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from gptoss_mlx.bench.answering import serve
from gptoss_mlx.engine.context import Context
from gptoss_mlx.engine.stepping import Failed, Row, Stepper
from gptoss_mlx.errors import UsageError
from gptoss_mlx.runtime import Runtime, load
from gptoss_mlx.sampling import Sampling


class Ours:
    """A model folder in this runtime. Options are ``dtype`` and ``memory``, as ``runtime.load`` takes them."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._runtime: Runtime = load(model, dtype=options.get("dtype"), memory=options.get("memory"))
        self._contexts: list[Context] = []
        self._logits: list[mx.array] = []

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        self._contexts = []  # the old caches' memory is free before new ones take it
        self._contexts = [self._runtime.context() for _ in tokens]
        chunk = self._runtime.chunk
        self._logits = [
            context.read(list(ids), chunk=chunk) for context, ids in zip(self._contexts, tokens, strict=True)
        ]
        logits = mx.concatenate(self._logits)
        mx.eval(logits)
        return logits

    def decode(self, tokens: Sequence[int]) -> mx.array:
        if len(tokens) != len(self._contexts):
            raise UsageError(f"{len(tokens)} ids for {len(self._contexts)} sequences")
        caches = [context.cache for context in self._contexts]
        model = self._runtime.model
        step = model.decode(mx.array(list(tokens)), caches)
        while step.repeat():
            pass
        logits = model.logits(step.x)
        mx.eval(logits, [cache.arrays() for cache in caches])
        return logits

    def generate(self, count: int) -> None:
        stepper = Stepper(self._runtime.model)
        outcomes = []
        for number, (context, logits) in enumerate(zip(self._contexts, self._logits, strict=True)):
            row = Row(number, [*context.ids], context, count + 1, Sampling(seed=number), frozenset())
            outcomes += stepper.begin(row, logits)
        while stepper.rows:
            outcomes += stepper.step()
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                raise outcome.error


if __name__ == "__main__":
    serve(Ours)
