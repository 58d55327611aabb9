"""A beginning read once serves everyone after, exactly, and within its budget."""

import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.sampling import Sampling

GREEDY = Sampling(temperature=0)
KEY = "a model"


def ids(seed, length):
    return np.random.default_rng(seed).integers(0, 512, length).tolist()


def greedy(context, prompt, count=8):
    return list(generate(context, prompt, max_tokens=count, sampling=GREEDY, stop=()))


def read(runtime, *prompts):
    """A context that has read each of ``prompts``, one the beginning of the next, with a mark after each."""
    context = runtime.context()
    for prompt in prompts:
        context.read(prompt)
        context.mark()
    return context


@pytest.fixture
def found(runtime):
    """How long the beginning is that a context starts from."""
    return lambda prefixes, prompt: len(prefixes.start(runtime.model, KEY, prompt).ids)


@pytest.fixture
def head(runtime):
    """A cache that holds a beginning of 150 ids, longer than the window, kept by a context that has gone on since."""
    prefixes = PrefixCache(budget=1 << 30)
    context = read(runtime, ids(1, 150))
    prefixes.keep(KEY, context)
    greedy(context, ids(1, 150) + ids(2, 40), 30)
    return prefixes


def test_what_goes_on_from_a_kept_beginning_is_what_a_cold_start_says(runtime, head):
    for tail in (3, 4, 5):
        prompt = ids(1, 150) + ids(tail, 60)
        context = head.start(runtime.model, KEY, prompt)
        assert len(context.ids) == 150
        assert greedy(context, prompt) == greedy(runtime.context(), prompt)


def test_the_longest_exact_beginning_is_found_and_nothing_else(runtime, head, found):
    head.keep(KEY, read(runtime, [*ids(1, 150), 7, 8]))
    assert found(head, [*ids(1, 150), 7, 8, 9]) == 152
    assert found(head, [*ids(1, 150), 7, 9, 9]) == 150
    assert found(head, ids(1, 150)) == 0, "one id must be left to read"
    assert found(head, [0, *ids(1, 150)]) == 0
    assert found(head, ids(9, 300)) == 0
    assert head.reusable(KEY, [*ids(1, 150), 7, 8, 9]) == 152


def test_what_another_model_has_read_is_not_found(runtime, head):
    prompt = [*ids(1, 150), 7]
    assert head.reusable("another model", prompt) == 0
    assert head.start(runtime.model, "another model", prompt).ids == []
    head.keep("another model", read(runtime, ids(1, 100)))
    assert head.reusable("another model", prompt) == 100
    assert head.reusable(KEY, prompt) == 150


def test_every_mark_of_one_context_can_be_gone_back_to_and_they_share_its_memory(runtime, found):
    """Also where the ways of two contexts part in the middle of what lies between two marks."""
    whole = ids(1, 400)
    prefixes = PrefixCache(1 << 30)
    prefixes.keep(KEY, read(runtime, whole[:130], whole[:260], whole))
    apart = 0
    for end in (130, 260, 400):
        alone = PrefixCache(1 << 30)
        alone.keep(KEY, read(runtime, whole[:end]))
        apart += alone.nbytes
    in_full_layers = (130 + 260) * 2 * 2 * 2 * 64 * 4  # positions, layers, keys and values, heads, dimension, bytes
    assert prefixes.nbytes <= apart - in_full_layers
    other = [*whole[:200], *ids(2, 100)]
    prefixes.keep(KEY, read(runtime, other))
    for same, mark in ((100, 0), (131, 130), (210, 130), (300, 260), (400, 400)):
        prompt = [*whole[:same], *ids(3, 20)]
        context = prefixes.start(runtime.model, KEY, prompt)
        assert len(context.ids) == mark
        assert greedy(context, prompt, 4) == greedy(runtime.context(), prompt, 4)
    assert found(prefixes, [*other, 1]) == 300


def test_a_longer_one_takes_the_place_of_those_it_contains(runtime, found):
    whole, prefixes = ids(1, 300), PrefixCache(1 << 30)
    prefixes.keep(KEY, read(runtime, whole[:150]))
    prefixes.keep(KEY, read(runtime, whole[:150], whole))
    assert len(prefixes) == 1
    assert found(prefixes, [*whole[:150], 1]) == 150
    assert found(prefixes, [*whole, 1]) == 300


def test_the_budget_holds_and_the_least_used_goes_first(runtime, found):
    contexts = [read(runtime, ids(seed, 130)) for seed in range(3)]
    size = PrefixCache(1 << 30)
    size.keep(KEY, contexts[0])
    prefixes = PrefixCache(budget=2 * size.nbytes)
    prefixes.keep(KEY, contexts[0])
    prefixes.keep(KEY, contexts[1])
    found(prefixes, [*ids(0, 130), 1])
    prefixes.keep(KEY, contexts[2])
    assert len(prefixes) == 2
    assert 0 < prefixes.nbytes <= prefixes.budget
    assert [found(prefixes, [*ids(seed, 130), 1]) for seed in range(3)] == [130, 0, 130]
    tiny = PrefixCache(budget=10)
    tiny.keep(KEY, contexts[0])
    assert len(tiny) == 0


def test_what_is_dropped_leaves_nothing_behind(runtime, found):
    """Many beginnings through a budget for one: neither trunks nor points of the trie pile up."""
    prefixes = PrefixCache(1 << 30)
    prefixes.keep(KEY, read(runtime, ids(0, 40)))
    prefixes.budget = prefixes.nbytes + 1
    for seed in range(1, 30):
        prefixes.keep(KEY, read(runtime, [*ids(0, 10), *ids(seed, 30)]))
    assert len(prefixes) == 1

    def points(node):
        return 1 + sum(map(points, node.children.values()))

    assert points(prefixes._roots[KEY]) <= 3  # the root, perhaps a parting of ways, and the one kept


def test_coming_back_to_an_earlier_beginning_reads_only_what_is_new(runtime):
    """As after a change of effort and back: the two have next to nothing in common."""
    prefixes = PrefixCache(1 << 30)
    first, second = ids(1, 300), ids(1, 5) + ids(2, 300)
    context = read(runtime, ids(1, 100), first)
    context = prefixes.go_on(KEY, context, second)
    assert context.ids == []
    assert greedy(context, second) == greedy(runtime.context(), second)
    again = first + ids(3, 30)
    context = prefixes.go_on(KEY, context, again)
    assert context.ids == first
    assert greedy(context, again) == greedy(runtime.context(), again)
    assert prefixes.reusable(KEY, [*second, 1]) == len(second)


def test_a_context_that_is_too_large_to_keep_goes_back_as_far_as_it_can(runtime):
    prefixes = PrefixCache(budget=1000)
    whole = ids(1, 300)
    context = read(runtime, whole[:100], whole)
    prompt = [*whole[:120], 1, 2]
    assert prefixes.go_on(KEY, context, prompt) is context
    assert context.ids == whole[:100]
    assert greedy(context, prompt) == greedy(runtime.context(), prompt)


def test_a_short_way_back_copies_nothing(runtime):
    """A thought that is dropped between two turns would else cost a copy of the whole conversation each time."""
    prefixes = PrefixCache(1 << 30)
    whole = ids(1, 300)
    context = read(runtime, whole[:200], whole)
    assert prefixes.go_on(KEY, context, [*whole[:220], 1]) is context
    assert len(prefixes) == 0


def test_rows_of_a_batch_read_what_they_share_once_and_know_it(runtime, monkeypatch):
    read = []
    real = type(runtime.model).__call__

    def call(self, tokens, cache):
        read.append(tokens.shape[1])
        return real(self, tokens, cache)

    monkeypatch.setattr(type(runtime.model), "__call__", call)
    batch = Batch(runtime.model, prefill_chunk=64, prefixes=PrefixCache(1 << 30), model_key=KEY)
    prompts = [ids(1, 150) + ids(seed, 20 + seed) for seed in range(2, 6)]
    rows = [
        Row(number, prompt, runtime.context(), 6, GREEDY, frozenset(), shared=150)
        for number, prompt in enumerate(prompts)
    ]
    for row in rows:
        batch.add(row)
    said = {}
    while batch.busy:
        for one in batch.step():
            said.setdefault(one.id, []).append(one.token)
    assert sum(read) == 150 + sum(len(prompt) - 150 for prompt in prompts)
    assert [row.cached for row in rows] == [0, 150, 150, 150]
    for number, prompt in enumerate(prompts):
        assert said[number] == greedy(runtime.context(), prompt, 6)
