"""mlx-lm as a program to be measured. Option ``dtype`` is bfloat16, as it loads the dense weights, or float32.

A prompt is read in the parts that mlx-lm's ``generate_step`` reads, but the head is computed for its last position
alone. Generation is that function's loop for any number of sequences: a step is under way before the last one's ids are
read. On Metal memory is wired as ``stream_generate`` does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metal_kernels  # noqa: F401  (a BLAS for everyone, before mlx)

# isort: split
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from gptoss_mlx.bench.answering import serve

DTYPES = {"bfloat16": mx.bfloat16, "float32": mx.float32}

PART = 2048
"""Positions of a prompt that are read at a time: ``prefill_step_size`` of mlx-lm's ``generate_step``."""


class MlxLm:
    """A checkpoint in Hugging Face's layout."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        dtype = DTYPES[options["dtype"]]
        if mx.metal.is_available():
            mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
        self._model, _ = load_model(Path(model))
        parameters = tree_map(lambda a: a.astype(dtype) if a.dtype == mx.bfloat16 else a, self._model.parameters())
        self._model.update(parameters)
        mx.eval(self._model.parameters())
        self._cache: list[Any] = []
        self._logits = mx.zeros(0)

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        self._cache = []  # the old caches' memory is free before new ones take it
        self._cache = make_prompt_cache(self._model)
        ids = mx.array([list(row) for row in tokens])
        for start in range(0, ids.shape[1], PART):
            self._logits = self._read(ids[:, start : start + PART])
            mx.eval([cache.state for cache in self._cache])
        mx.eval(self._logits)
        return self._logits

    def decode(self, tokens: Sequence[int]) -> mx.array:
        logits = self._read(mx.array(list(tokens))[:, None])
        mx.eval(logits, [cache.state for cache in self._cache])
        return logits

    def generate(self, count: int) -> None:
        drawn = mx.random.categorical(self._logits)
        mx.async_eval(drawn)
        for _ in range(count):
            following = mx.random.categorical(self._read(drawn[:, None]))
            mx.async_eval(following)
            drawn.tolist()
            drawn = following
        drawn.tolist()

    def _read(self, ids: mx.array) -> mx.array:
        """Return the head's logits for the last positions alone. Calling the model would compute it for all."""
        return self._model.lm_head(self._model.model(ids, self._cache)[:, -1])


if __name__ == "__main__":
    serve(MlxLm)
