"""What a model launches: the dispatches of the decoder's own Python, traced without a GPU or weights."""

from collections.abc import Iterator
from unittest.mock import patch

import mlx.core as mx

from gptoss_mlx.config import ModelConfig
from metal_kernels import launch
from metal_kernels.dispatches import FEW_ROWS, Dispatch
from tests.support import decode_graph, prompt_graph

MODELS = {"20b": 32, "120b": 128}
"""The published models, which differ in the number of experts and of layers."""
LENGTHS = (100, 1000, 1024)
"""Positions before a step: all keys are one split; splits are side by side in a threadgroup; they are apart."""


def published(dense: str, experts: int, dtype: mx.Dtype = mx.bfloat16, most_rows: int = FEW_ROWS) -> Iterator[Dispatch]:
    """Yield each launch of steps of a sliding and a full layer, with 1 to ``most_rows`` rows, that pick the likeliest
    tokens or give logits, and of a prompt. Launches that differ only in the size of their grid come once."""
    config = ModelConfig(num_hidden_layers=0, num_local_experts=experts)
    config = decode_graph.with_layers(config, decode_graph.alternating(2))
    found: dict[tuple, Dispatch] = {}
    plain = launch.Kernel.launch

    def noted(kernel: launch.Kernel, made: Dispatch) -> list[mx.array]:
        found.setdefault((made.shader, made.template, made.threadgroup), made)
        return plain(kernel, made)

    with patch.object(launch.Kernel, "launch", noted):
        for rows in range(1, most_rows + 1):
            decode_graph.record(config, dense, LENGTHS[0], rows=rows, dtype=dtype)
        for length in LENGTHS[1:]:
            decode_graph.record(config, dense, length, dtype=dtype, ending=lambda model, x: [model.logits(x)])
        prompt_graph.record(config, dense, FEW_ROWS + 1, dtype)
    yield from found.values()
