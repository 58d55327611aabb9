"""A cache can go back, and what is read afterwards is as if the detour had never been."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.model.cache import FullLayer, SlidingLayer


def rows(start, count):
    positions = mx.arange(start, start + count, dtype=mx.float32)
    return mx.broadcast_to(positions[None, None, :, None], (1, 2, count, 4))


@pytest.mark.parametrize("chunk", [1, 5, 130])
def test_a_sliding_layer_offers_each_query_its_window(chunk):
    layer = SlidingLayer(window=128)
    for start in range(0, 390, chunk):
        keys, _ = layer.extend(rows(start, chunk), rows(start, chunk))
        first = max(0, start - 127)
        assert np.array(keys)[0, 0, :, 0].tolist() == list(range(first, start + chunk))
    assert layer.length == 390
    assert layer.keys.shape[2] == 127


@pytest.mark.parametrize("make", [FullLayer, lambda: SlidingLayer(window=128)])
def test_rewinding_forgets_the_detour(make):
    layer = make()
    layer.extend(rows(0, 200), rows(0, 200))
    mark = layer.mark()
    for start in range(200, 700, 100):
        layer.extend(rows(-start, 100), rows(-start, 100))
    layer.rewind(mark)
    keys, values = layer.extend(rows(200, 3), rows(200, 3))
    first = 0 if make is FullLayer else 73
    assert np.array(keys)[0, 1, :, 0].tolist() == list(range(first, 203))
    assert np.array_equal(np.array(keys), np.array(values))
