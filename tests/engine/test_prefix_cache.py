"""A prefix read once can be resumed from later, exactly, and within the budget."""

from dataclasses import replace

import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Row
from gptoss_mlx.engine.context import common_length
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.prefix_cache import PrefixCache, PrefixView
from gptoss_mlx.sampling import Sampling

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
def view(runtime):
    """Make a model's view of a new cache."""
    return lambda budget=1 << 30, key=KEY: PrefixView(PrefixCache(budget), runtime.model, key)


@pytest.fixture
def found(runtime):
    """Return the length of the prefix that an empty context resumes from."""
    return lambda prefixes, prompt: len(prefixes.resume(runtime.context(), prompt).ids)


@pytest.fixture
def head(runtime, view):
    """Keep a prefix of 150 ids, longer than the window. The context it was read with has read more since."""
    prefixes = view()
    context = read(runtime, ids(1, 150))
    prefixes.keep(context)
    greedy(context, ids(1, 150) + ids(2, 40), 30)
    return prefixes


def test_what_resumes_from_a_kept_prefix_is_what_a_cold_start_says(runtime, head):
    for tail in (3, 4, 5):
        prompt = ids(1, 150) + ids(tail, 60)
        context = head.resume(runtime.context(), prompt)
        assert len(context.ids) == 150
        assert greedy(context, prompt) == greedy(runtime.context(), prompt)


def test_the_longest_exact_prefix_is_found_and_nothing_else(runtime, head, found):
    head.keep(read(runtime, [*ids(1, 150), 7, 8]))
    assert found(head, [*ids(1, 150), 7, 8, 9]) == 152
    assert found(head, [*ids(1, 150), 7, 9, 9]) == 150
    assert found(head, ids(1, 150)) == 0, "one id must be left to read"
    assert found(head, [0, *ids(1, 150)]) == 0
    assert found(head, ids(9, 300)) == 0
    assert head.reusable(runtime.context(), [*ids(1, 150), 7, 8, 9]) == 152


def test_what_another_model_has_read_is_not_found(runtime, head):
    prompt = [*ids(1, 150), 7]
    other = replace(head, model_key="another model")
    assert other.reusable(runtime.context(), prompt) == 0
    assert other.resume(runtime.context(), prompt).ids == []
    other.keep(read(runtime, ids(1, 100)))
    assert other.reusable(runtime.context(), prompt) == 100
    assert head.reusable(runtime.context(), prompt) == 150


def test_every_mark_of_one_context_can_be_resumed_from_and_they_share_its_memory(runtime, view, found):
    """Also where two contexts part between two marks."""
    whole = ids(1, 400)
    prefixes = view()
    prefixes.keep(read(runtime, whole[:130], whole[:260], whole))
    apart = 0
    for end in (130, 260, 400):
        alone = view()
        alone.keep(read(runtime, whole[:end]))
        apart += alone.prefixes.nbytes
    in_full_layers = (130 + 260) * 2 * 2 * 2 * 64 * 4  # positions, layers, keys and values, heads, dimension, bytes
    assert prefixes.prefixes.nbytes <= apart - in_full_layers
    other = [*whole[:200], *ids(2, 100)]
    prefixes.keep(read(runtime, other))
    for same, mark in ((100, 0), (131, 130), (210, 130), (300, 260), (400, 400)):
        prompt = [*whole[:same], *ids(3, 20)]
        context = prefixes.resume(runtime.context(), prompt)
        assert len(context.ids) == mark
        assert greedy(context, prompt, 4) == greedy(runtime.context(), prompt, 4)
    assert found(prefixes, [*other, 1]) == 300


def test_a_longer_one_takes_the_place_of_those_it_contains(runtime, view, found):
    whole = ids(1, 300)
    prefixes = view()
    prefixes.keep(read(runtime, whole[:150]))
    prefixes.keep(read(runtime, whole[:150], whole))
    assert len(prefixes.prefixes) == 1
    assert found(prefixes, [*whole[:150], 1]) == 150
    assert found(prefixes, [*whole, 1]) == 300


def test_the_budget_holds_and_the_least_recently_used_is_dropped_first(runtime, view, found):
    contexts = [read(runtime, ids(seed, 130)) for seed in range(3)]
    one = view()
    one.keep(contexts[0])
    prefixes = view(budget=2 * one.prefixes.nbytes)
    prefixes.keep(contexts[0])
    prefixes.keep(contexts[1])
    found(prefixes, [*ids(0, 130), 1])
    prefixes.keep(contexts[2])
    assert len(prefixes.prefixes) == 2
    assert 0 < prefixes.prefixes.nbytes <= prefixes.prefixes.budget
    assert [found(prefixes, [*ids(seed, 130), 1]) for seed in range(3)] == [130, 0, 130]
    tiny = view(budget=10)
    tiny.keep(contexts[0])
    assert len(tiny.prefixes) == 0


def test_two_sequences_have_in_common_what_was_put_there():
    random = np.random.default_rng(3)
    for length in (0, 1, 255, 256, 257, 900):
        one = random.integers(0, 200_000, length).tolist()
        for same in {0, length // 2, length - 1, length} - {-1}:
            for more in ([], [-1], [-1] * 600):
                other = one[:same] + more
                assert common_length(one, other) == common_length(other, one) == same


def test_what_is_dropped_leaves_nothing_behind(runtime, view, found):
    """Many prefixes pass through a budget for one. Trunks do not pile up."""
    prefixes = view()
    prefixes.keep(read(runtime, ids(0, 40)))
    prefixes.prefixes.budget = prefixes.prefixes.nbytes + 1
    for seed in range(1, 30):
        prefixes.keep(read(runtime, [*ids(0, 10), *ids(seed, 30)]))
    assert len(prefixes.prefixes) == 1
    assert found(prefixes, [*ids(0, 40), 1]) == 0


def test_returning_to_an_earlier_prefix_reads_only_what_is_new(runtime, view):
    """As after a change of effort and back: the two prompts have almost nothing in common."""
    prefixes = view()
    first = ids(1, 300)
    second = ids(1, 5) + ids(2, 300)
    context = read(runtime, ids(1, 100), first)
    context = prefixes.resume(context, second)
    assert context.ids == []
    assert greedy(context, second) == greedy(runtime.context(), second)
    again = first + ids(3, 30)
    context = prefixes.resume(context, again)
    assert context.ids == first
    assert greedy(context, again) == greedy(runtime.context(), again)
    assert prefixes.reusable(runtime.context(), [*second, 1]) == len(second)


def test_a_context_that_is_too_large_to_keep_is_rewound_as_little_as_possible(runtime, view):
    prefixes = view(budget=1000)
    whole = ids(1, 300)
    context = read(runtime, whole[:100], whole)
    prompt = [*whole[:120], 1, 2]
    assert prefixes.resume(context, prompt) is context
    assert context.ids == whole[:100]
    assert greedy(context, prompt) == greedy(runtime.context(), prompt)


def test_a_short_rewind_copies_nothing(runtime, view):
    """Otherwise a thought dropped between two turns would cost a copy of the whole conversation each time."""
    prefixes = view()
    whole = ids(1, 300)
    context = read(runtime, whole[:200], whole)
    assert prefixes.resume(context, [*whole[:220], 1]) is context
    assert len(prefixes.prefixes) == 0


def test_rows_of_a_batch_read_what_they_share_once_and_know_it(runtime, view, monkeypatch):
    read = []
    real = type(runtime.model).__call__

    def call(self, tokens, cache):
        read.append(tokens.shape[1])
        return real(self, tokens, cache)

    monkeypatch.setattr(type(runtime.model), "__call__", call)
    batch = Batch(runtime.model, prefill_chunk=64, prefix_view=view())
    prompts = [ids(1, 150) + ids(seed, 20 + seed) for seed in range(2, 6)]
    rows = [
        Row(number, prompt, runtime.context(), 6, GREEDY, frozenset(), shared=(150,))
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
