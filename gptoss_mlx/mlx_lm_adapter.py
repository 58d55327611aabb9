"""Have mlx-lm's own programs run our decoder: ``python -m gptoss_mlx.mlx_lm_adapter MODEL FOLDER``.

mlx-lm loads a model whose ``config.json`` names a ``model_file``, if it is told ``--trust-remote-code``. This module
writes such a folder. It holds no weights, only a tokenizer and the path of the model, and its ``model_file`` imports
the class below. So mlx_lm.generate, mlx_lm.perplexity, mlx_lm.evaluate and mlx_lm.server run our operations, experts on
disk included. Nothing else imports this module. It knows mlx-lm's protocol, but imports nothing of mlx-lm.

The protocol is that of mlx-lm 0.32: ``model(ids [B, L], cache)`` returns logits [B, L, V], and ``make_cache`` a list
of caches, with which it goes on, copies, merges into batches and takes apart again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from gptoss_mlx import bundled
from gptoss_mlx.errors import GptOssError, StorageError
from gptoss_mlx.home import BUNDLED
from gptoss_mlx.installed import find_model
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.safetensors import header_bytes
from gptoss_mlx.runtime import load
from gptoss_mlx.traits import load_tokenizer, stop_ids

MODEL_FILE = "gptoss_mac.py"
OURS = "gptoss_mac_model"
"""Field of ``config.json`` that holds the path of our model folder."""

CHAT_TEMPLATE = """\
{%- macro message(role, text) %}{{ '<|start|>' + role + '<|message|>' + text + '<|end|>' }}{% endmacro -%}
{%- set known = 'You are ChatGPT, a large language model trained by OpenAI.\\nKnowledge cutoff: 2024-06' -%}
{%- set channels = '# Valid channels: analysis, commentary, final. Channel must be included for every message.' -%}
{{- message('system', known + '\\n\\nReasoning: ' + (reasoning_effort or 'medium') + '\\n\\n' + channels) -}}
{%- for one in messages -%}
{%- if one.role in ('system', 'developer') -%}
{{- message('developer', '# Instructions\\n\\n' + one.content) -}}
{%- elif one.role == 'assistant' -%}
{{- message('assistant<|channel|>final', one.content) -}}
{%- else -%}
{{- message(one.role, one.content) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
"""Harmony for messages of text, as ``harmony.render`` writes them without a date."""


@dataclass
class ModelArgs:
    """What mlx-lm reads of ``config.json``: the path of our model folder."""

    model_type: str
    path: str

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ModelArgs":
        """Return the arguments that a folder of ``write_folder`` holds."""
        return cls(config["model_type"], config[OURS])


class Cache:
    """The caches of a batch: a row for each sequence, each as long as it is. No row is padded."""

    def __init__(self, rows: list[KVCache]) -> None:
        self.rows = rows
        self._left: list[int] | None = None  # of each row, where rows end at different places of a padded array

    def widened(self, rows: int, empty: KVCache) -> list[KVCache]:
        """Return the rows, as many new ones as ``rows`` where nothing has been read."""
        if self.empty() and len(self.rows) != rows:
            self.rows = [empty.shared() for _ in range(rows)]
        return self.rows

    def taken(self, length: int) -> list[int]:
        """Return how many of the next ``length`` columns of a padded array belong to each row."""
        if self._left is None:
            return [length] * len(self.rows)
        own = [min(length, left) for left in self._left]
        self._left = [left - count for left, count in zip(self._left, own, strict=True)]
        return own

    @property
    def state(self) -> list[mx.array]:
        """Return all arrays, for evaluation."""
        return [array for row in self.rows for array in row.arrays()]

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(array.nbytes for array in self.state)

    def empty(self) -> bool:
        """Return whether nothing has been read."""
        return not any(row.length for row in self.rows)

    def size(self) -> int:
        """Return the positions of the longest row."""
        return max((row.length for row in self.rows), default=0)

    def is_trimmable(self) -> bool:
        """Return whether positions can be taken back. They cannot, because sliding layers forget."""
        return False

    def prepare(self, *, lengths: Sequence[int] | None = None, **padding: Any) -> None:
        """Note how long each row of the next array is, which is padded on its right."""
        self._left = None if lengths is None else list(lengths)

    def finalize(self) -> None:
        """Forget what ``prepare`` noted."""
        self._left = None

    @staticmethod
    def merge(caches: Sequence["Cache"]) -> "Cache":
        """Return a batch of copies of all rows."""
        return Cache([row.shared() for cache in caches for row in cache.rows])

    def extend(self, other: "Cache") -> None:
        """Add the rows of another cache."""
        self.rows = [*self.rows, *other.rows]

    def filter(self, keep: Sequence[int]) -> None:
        """Keep the rows of these numbers."""
        self.rows = [self.rows[number] for number in keep]

    def extract(self, number: int) -> "Cache":
        """Return a copy of one row."""
        return Cache([self.rows[number].shared()])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Cache":
        return Cache.merge([self])


class Model(nn.Module):
    """Our decoder as mlx-lm's loops call it. It has no parameters of mlx-lm's kind: weights stay where ours lie."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.runtime = load(args.path, prefix_disk="off")

    def __call__(self, inputs: mx.array, cache: list[Cache] | None = None) -> mx.array:
        """Return the logits [B, L, V] float32 of ids [B, L], and add them to ``cache``. Columns behind a row's end are
        zero."""
        decoder = self.runtime.model
        B, L = inputs.shape
        own = cache[0] if cache else Cache([])
        rows = own.widened(B, KVCache.empty(decoder.config))
        taken = own.taken(L)
        if L == 1 and all(taken):
            step = decoder.decode(inputs.reshape(-1), rows)
            while step.repeat():
                pass
            return decoder.logits(step.x)[:, None]
        return mx.stack([self._read(inputs[b], rows[b], taken[b]) for b in range(B)])

    def _read(self, ids: mx.array, row: KVCache, count: int) -> mx.array:
        """Read the first ``count`` of ids [L] in chunks, and return logits [L, V], zero for the others."""
        decoder = self.runtime.model
        parts = []
        for at in range(0, count, self.runtime.chunk):
            hidden = decoder(ids[None, at : min(at + self.runtime.chunk, count)], row)
            mx.eval(hidden, row.arrays())  # mlx-lm reads 2,048 ids at a time, and drops most logits uncomputed
            parts.append(decoder.logits(hidden[0]))
        if count < len(ids):
            parts.append(mx.zeros((len(ids) - count, decoder.config.vocab_size)))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def make_cache(self) -> list[Cache]:
        """Return a cache that has read nothing, for one sequence."""
        return [Cache([KVCache.empty(self.runtime.config)])]

    @property
    def layers(self) -> list[Any]:
        """Return the decoder's layers, which mlx-lm counts."""
        return self.runtime.model.weights.layers

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Return the tensors to load: none."""
        return {}


def write_folder(model: str, destination: Path) -> None:
    """Write a new folder that mlx-lm loads, for an installed model or a model folder. Raises ModelNotInstalledError,
    ModelFolderError and StorageError."""
    if model == BUNDLED:
        bundled.install_tiny()
    folder = ModelFolder.open(find_model(model))
    tokenizer = load_tokenizer(folder)
    config = {
        "model_type": "gpt_oss",
        "model_file": MODEL_FILE,
        OURS: str(folder.path.resolve()),
        "eos_token_id": sorted(stop_ids(folder, tokenizer.special)),
        "vocab_size": folder.config.vocab_size,
        "max_position_embeddings": folder.config.max_position_embeddings,
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    texts = {
        "config.json": json.dumps(config, indent=2),
        "tokenizer_config.json": json.dumps(about, indent=2),
        "tokenizer.json": json.dumps(tokenizer.to_json(), ensure_ascii=False),
        MODEL_FILE: "from gptoss_mlx.mlx_lm_adapter import Model, ModelArgs  # noqa: F401\n",
    }
    try:
        destination.mkdir(parents=True)
        for name, text in texts.items():
            (destination / name).write_text(text, encoding="utf-8")
        (destination / "model.safetensors").write_bytes(header_bytes({}, 8))  # mlx-lm asks that there be one
    except OSError as error:
        raise StorageError(f"{destination}: cannot be written ({error.strerror}); give a new folder") from error


def main() -> None:
    """Write the folder that the arguments name, and say how to use it."""
    parser = argparse.ArgumentParser(prog="python -m gptoss_mlx.mlx_lm_adapter", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="an installed model, or a model folder")
    parser.add_argument("folder", type=Path, help="a new folder, for mlx-lm")
    given = parser.parse_args()
    try:
        write_folder(given.model, given.folder)
    except GptOssError as error:
        print(f"mlx_lm_adapter: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"wrote {given.folder}; use it so: mlx_lm.generate --model {given.folder} --trust-remote-code")


if __name__ == "__main__":
    main()
