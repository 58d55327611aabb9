"""mlx-lm as a program to be measured. Option ``dtype`` is bfloat16, as it loads the dense weights, or float32."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metal_kernels  # noqa: F401  (a BLAS for everyone, before mlx)

# isort: split
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from gptoss_mlx.bench.worker import serve

DTYPES = {"bfloat16": mx.bfloat16, "float32": mx.float32}


class MlxLm:
    """A checkpoint in Hugging Face's layout."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        dtype = DTYPES[options["dtype"]]
        self._model, _ = load_model(Path(model))
        parameters = tree_map(lambda a: a.astype(dtype) if a.dtype == mx.bfloat16 else a, self._model.parameters())
        self._model.update(parameters)
        mx.eval(self._model.parameters())
        self._cache: list[Any] = []

    def prefill(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        self._cache = make_prompt_cache(self._model)
        return self._read(tokens)

    def decode(self, tokens: Sequence[int]) -> mx.array:
        return self._read([[id] for id in tokens])

    def _read(self, tokens: Sequence[Sequence[int]]) -> mx.array:
        """Compute the head for the last positions alone. Calling the model would compute it for all."""
        hidden = self._model.model(mx.array(tokens), self._cache)[:, -1]
        logits = self._model.lm_head(hidden)
        mx.eval(logits, [cache.state for cache in self._cache])
        return logits


if __name__ == "__main__":
    serve(MlxLm)
