"""A cache can rewind and then reads as if it had never gone on, and decoding never copies it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.model.cache import TAIL, KVCache, LayerCache
from gptoss_mlx.sampling import Sampling
from tests.support.checkpoints import SMALL
from tests.support.models import random_model

CONFIG = ModelConfig(
    num_hidden_layers=2,
    num_local_experts=4,
    layer_types=("sliding_attention", "full_attention"),
    num_key_value_heads=2,
    head_dim=4,
)
SLIDING = 0
FULL = 1


def rows(start, count):
    """Return keys and values that are their positions."""
    positions = mx.arange(start, start + count, dtype=mx.float32)
    return mx.broadcast_to(positions[None, None, None, :, None], (2, 1, 2, count, 4))


def decode(cache, start, count):
    """Add positions one at a time, as attention does."""
    for position in range(start, start + count):
        cache.prepare(1, CONFIG, mx.float32)
        for layer in cache.layers:
            layer.advance(mx.slice_update(layer.tail, rows(position, 1), mx.array([layer.tail_rows]), (3,)), 1)


def positions(array):
    assert mx.array_equal(array[0], array[1])
    return np.array(array)[0, 0, 1, :, 0].astype(int).tolist()


@pytest.mark.parametrize("chunk", [1, 5, 130])
def test_a_sliding_layer_offers_each_query_its_window(chunk):
    layer = LayerCache(window=128)
    for start in range(0, 390, chunk):
        keys, _ = layer.append(rows(start, chunk))
        first = max(0, start - 127)
        assert np.array(keys)[0, 0, :, 0].tolist() == list(range(first, start + chunk))
    assert layer.length == 390
    assert layer.body.shape[3] == 127


@pytest.mark.parametrize("window", [1, 2, 40])
def test_a_sliding_layer_keeps_one_position_less_than_its_window(window):
    """A query also sees its own position, so with a window of one nothing is kept."""
    config = replace(CONFIG, sliding_window=window)
    cache = KVCache.empty(config)
    for start in range(0, 200, 50):
        for layer in cache.layers:
            keys, _ = layer.append(rows(start, 50))
            assert keys.shape[2] == min(start, layer.window - 1 if layer.window else start) + 50
    assert cache.layers[SLIDING].body.shape[3] == window - 1
    decode(cache, 200, 70)
    held = cache.layers[SLIDING].held()
    assert ([] if held is None else positions(held)) == list(range(271 - window, 270))
    full = replace(config, layer_types=("full_attention",), num_hidden_layers=1)
    sliding = cache_bytes(config, 270, mx.float32) - cache_bytes(full, 270, mx.float32)
    assert sliding == sum(array.nbytes for array in (cache.layers[SLIDING].body, cache.layers[SLIDING].tail))
    kept = cache.kept() if window > 1 else [rows(0, 0), *cache.kept()]
    again = KVCache.restored(config, 270, kept)
    for one in (cache, again):
        decode(one, 270, 3)
    assert again.length == cache.length == 273
    assert positions(again.layers[FULL].held()) == list(range(273))
    held = again.layers[SLIDING].held()
    assert ([] if held is None else positions(held)) == list(range(274 - window, 273))


@pytest.mark.parametrize("prompt", [0, 3, 200])
def test_decoding_across_tails_keeps_every_position_in_order(prompt):
    cache = KVCache.empty(CONFIG)
    for layer in cache.layers if prompt else ():
        layer.append(rows(0, prompt))
    for start in range(prompt, prompt + 200):
        decode(cache, start, 1)
        assert positions(cache.layers[FULL].held()) == list(range(start + 1))
        assert positions(cache.layers[SLIDING].held()) == list(range(max(0, start - 126), start + 1))
        assert all(layer.tail_rows <= TAIL for layer in cache.layers)
    assert cache.length == prompt + 200


@pytest.mark.parametrize("before", [10, 100, 200])
@pytest.mark.parametrize("detour", ["decoded", "read"])
@pytest.mark.parametrize("length", [1, 60, 300])
def test_rewinding_forgets_the_detour(before, detour, length):
    cache = KVCache.empty(CONFIG)
    for layer in cache.layers:
        layer.append(rows(0, before // 2))
    decode(cache, before // 2, before - before // 2)
    mark = cache.mark()
    if detour == "decoded":
        decode(cache, 1000, length)
    else:
        for layer in cache.layers:
            layer.append(rows(1000, length))
    cache.rewind(mark)
    assert cache.length == before
    decode(cache, before, 3)
    assert positions(cache.layers[FULL].held()) == list(range(before + 3))
    assert positions(cache.layers[SLIDING].held()) == list(range(max(0, before - 124), before + 3))


@pytest.mark.parametrize("before", [70, 128])
def test_what_a_failed_step_left_is_forgotten(before):
    """On Metal a step can fail after the cache holds its arrays, and leave anything in them."""
    cache = KVCache.empty(CONFIG)
    decode(cache, 0, before)
    mark = cache.mark()
    cache.prepare(1, CONFIG, mx.float32)  # at 128 this moves a full tail
    for layer in cache.layers:
        layer.advance(mx.full(layer.tail.shape, mx.nan), 1)
    cache.rewind(mark)
    assert positions(cache.layers[FULL].held()) == list(range(before))
    decode(cache, before, 2)
    assert positions(cache.layers[FULL].held()) == list(range(before + 2))
    assert positions(cache.layers[SLIDING].held()) == list(range(max(0, before - 125), before + 2))


def test_what_is_shared_goes_its_own_ways():
    cache = KVCache.empty(CONFIG)
    decode(cache, 0, 100)
    other = cache.shared()
    decode(cache, 100, 100)
    decode(other, 500, 100)
    assert positions(cache.layers[FULL].held()) == list(range(200))
    assert positions(other.layers[FULL].held()) == [*range(100), *range(500, 600)]


def address(array):
    return np.array(array, copy=False).__array_interface__["data"][0]


def test_a_step_copies_no_more_than_a_tail_but_where_a_body_grows(tmp_path, monkeypatch):
    """MLX writes in place if nothing else holds an array. So a body that has moved was copied. ``generate`` always has
    a step in flight."""
    runtime = random_model(tmp_path, SMALL, seed=5)
    context = runtime.context()
    layers = [layer for layer in context.cache.layers if layer.window is None]
    prompt = np.random.default_rng(0).integers(0, 512, 1200).tolist()
    moved = []
    at = None
    for _ in generate(context, prompt, max_tokens=600, sampling=Sampling(temperature=0), stop=()):
        mx.eval([layer.body for layer in layers])
        now = [(address(layer.body), layer.body.shape[3]) for layer in layers]
        if at is not None and now != at:
            moved.append([rows for _, rows in at])
            assert all(a[0] != b[0] and a[1] < b[1] for a, b in zip(at, now, strict=True)), "moved without growing"
        at = now
    assert len(moved) == 2, "two of 256 rows on the way from 1,200 to 1,800"
    # The average over these tokens: tails, the rows moved into bodies, and bodies that grew.
    for copied in zip(*moved, strict=True):
        assert TAIL / 2 + 1 + sum(copied) / 600 <= TAIL


def test_a_chunk_of_a_prompt_copies_no_keys_that_were_there():
    layer = LayerCache()
    chunk = mx.ones((2, 1, 4, 512, 64))
    for _ in range(7):
        mx.eval(layer.append(chunk), layer.body)
    held = mx.get_active_memory()
    seen = layer.append(chunk)
    mx.eval(seen, layer.body)
    assert mx.get_active_memory() - held <= 1.1 * chunk.nbytes
