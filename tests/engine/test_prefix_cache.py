"""A beginning read once serves everyone after, exactly, and within its budget."""

import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.sampling import Sampling

GREEDY = Sampling(temperature=0)


def ids(seed, length):
    return np.random.default_rng(seed).integers(0, 512, length).tolist()


def greedy(context, prompt, count=8):
    return list(generate(context, prompt, max_tokens=count, sampling=GREEDY, stop=()))


@pytest.fixture
def head(runtime):
    """A cache that holds a beginning of 150 ids, longer than the window, kept by a context that has gone on since."""
    prefixes = PrefixCache(runtime.model, budget=1 << 30)
    context = runtime.context()
    context.read(ids(1, 150))
    prefixes.keep(context)
    greedy(context, ids(1, 150) + ids(2, 40), 30)
    return prefixes


def test_what_goes_on_from_a_kept_beginning_is_what_a_cold_start_says(runtime, head):
    for tail in (3, 4, 5):
        prompt = ids(1, 150) + ids(tail, 60)
        context = head.start(prompt)
        assert len(context.ids) == 150
        assert greedy(context, prompt) == greedy(runtime.context(), prompt)


def test_the_longest_exact_beginning_is_found_and_nothing_else(runtime, head):
    longer = runtime.context()
    longer.read([*ids(1, 150), 7, 8])
    head.keep(longer)
    assert len(head.start([*ids(1, 150), 7, 8, 9]).ids) == 152
    assert len(head.start([*ids(1, 150), 7, 9, 9]).ids) == 150
    assert len(head.start(ids(1, 150)).ids) == 0, "one id must be left to read"
    assert len(head.start([0, *ids(1, 150)]).ids) == 0
    assert len(head.start(ids(9, 300)).ids) == 0


def test_the_budget_holds_and_the_least_used_goes_first(runtime):
    contexts = []
    for seed in range(3):
        context = runtime.context()
        context.read(ids(seed, 130))
        contexts.append(context)
    size = PrefixCache(runtime.model, 1 << 30)
    size.keep(contexts[0])
    prefixes = PrefixCache(runtime.model, budget=2 * size.nbytes)
    prefixes.keep(contexts[0])
    prefixes.keep(contexts[1])
    prefixes.start([*ids(0, 130), 1])
    prefixes.keep(contexts[2])
    assert len(prefixes) == 2
    assert prefixes.nbytes <= prefixes.budget
    assert [len(prefixes.start([*ids(seed, 130), 1]).ids) for seed in range(3)] == [130, 0, 130]
    tiny = PrefixCache(runtime.model, budget=10)
    tiny.keep(contexts[0])
    assert len(tiny) == 0


def test_rows_of_a_batch_read_what_they_share_once(runtime, monkeypatch):
    read = []
    real = type(runtime.model).__call__

    def call(self, tokens, cache):
        read.append(tokens.shape[1])
        return real(self, tokens, cache)

    monkeypatch.setattr(type(runtime.model), "__call__", call)
    batch = Batch(runtime.model, prefill_chunk=64, prefixes=PrefixCache(runtime.model, 1 << 30))
    prompts = [ids(1, 150) + ids(seed, 20 + seed) for seed in range(2, 6)]
    for number, prompt in enumerate(prompts):
        batch.add(Row(number, prompt, runtime.context(), 6, GREEDY, frozenset(), shared=150))
    said = {}
    while batch.busy:
        for one in batch.step():
            said.setdefault(one.id, []).append(one.token)
    assert sum(read) == 150 + sum(len(prompt) - 150 for prompt in prompts)
    for number, prompt in enumerate(prompts):
        assert said[number] == greedy(runtime.context(), prompt, 6)
