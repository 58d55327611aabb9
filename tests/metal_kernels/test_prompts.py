"""What a prompt launches, and that the report's counts of MLX's grouped product are those of its kernel."""

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from tests.metal_kernels.shaders.prompts import STOCK_TILE, loads, slice_of_stock
from tests.support import decode_graph, prompt_graph


def test_mlx_s_grouped_product_loads_what_the_report_says():
    rows = (16, 24)
    got, want, report = slice_of_stock(rows, outputs=64, columns=96)
    assert np.abs(got - want).max() <= 2**-8 * np.abs(want).max()
    counted = {name: use.bytes_issued for name, use in report.buffers.items()}
    found = loads(rows, 64, 96, STOCK_TILE)
    assert counted["x"] == found.input
    assert counted["w"] == found.weights * 16 // 17  # of 17 bytes to a group one is a scale, which two threads load
    assert found.opened == 1.5


def test_a_layer_of_a_prompt_runs_shaders_around_its_products_and_makes_one_mask():
    config = ModelConfig(num_hidden_layers=0, num_local_experts=32)
    config = decode_graph.with_layers(config, decode_graph.alternating(2))
    found = prompt_graph.dispatches(prompt_graph.record(config, "q8", 6 * 128, mx.bfloat16))
    assert found["GatherQMM"] == 4
    assert found["grouped_swiglu"] == found["grouped_sum"] == 2
    assert found["scaled_dot_product_attention"] == 7
    assert found["Less"] == 1
