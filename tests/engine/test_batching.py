"""Each row generates what it would generate alone, whichever other rows join, leave or fail."""

import gc
import weakref

import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx.bundled import checkpoint
from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, UsageError
from gptoss_mlx.harmony import Message, System, render
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.sampling import Sampling

GREEDY = Sampling(temperature=0)
LENGTHS = (3, 40, 126, 200, 70, 128)


def prompt(number):
    return np.random.default_rng(number).integers(0, 512, LENGTHS[number % len(LENGTHS)]).tolist()


def row(runtime, number, max_tokens=20, sampling=GREEDY, stop=()):
    return Row(number, prompt(number), runtime.context(), max_tokens, sampling, frozenset(stop))


def alone(runtime, number, max_tokens=20, sampling=GREEDY, stop=()):
    options = {"max_tokens": max_tokens, "sampling": sampling, "stop": frozenset(stop)}
    return list(generate(runtime.context(), prompt(number), **options))


def margins_hold(runtime, number, ids):
    """Return how many of ``ids`` precede the first one whose top two logits lie within 1e-3."""
    logits = np.array(runtime.logits([prompt(number) + ids]))[0, LENGTHS[number % len(LENGTHS)] - 1 : -1]
    top = np.sort(logits, axis=-1)[:, -2:]
    close = np.nonzero(top[:, 1] - top[:, 0] <= 1e-3)[0]
    return int(close[0]) if len(close) else len(ids)


def run(batch, during=None):
    said = {}
    ends = {}
    steps = 0
    while batch.busy:
        for one in batch.step():
            assert one.id not in ends
            said.setdefault(one.id, []).append(one.token)
            if one.finished:
                ends[one.id] = one.finished
        steps += 1
        if during:
            during(steps)
        assert steps < 1000
    return said, ends


def test_rows_that_join_and_leave_say_what_they_say_alone(runtime):
    """Rows of different lengths and limits, some longer than the window. Three run at a time, so they queue."""
    batch = Batch(runtime.model, max_rows=3, prefill_chunk=50)
    limits = [20, 3, 11, 20, 1, 17]
    for number, limit in enumerate(limits):
        batch.add(row(runtime, number, limit))
    said, ends = run(batch)
    assert ends == dict.fromkeys(range(6), "length")
    for number, limit in enumerate(limits):
        want = alone(runtime, number, limit)
        sure = margins_hold(runtime, number, want)
        assert len(said[number]) == limit
        assert said[number][:sure] == want[:sure]
        assert sure >= limit // 2


def test_a_long_prompt_does_not_hold_up_the_others(runtime):
    batch = Batch(runtime.model, prefill_chunk=10)
    batch.add(row(runtime, 0, 60))
    batch.step()
    batch.add(row(runtime, 3, 5))
    order = []
    while batch.busy:
        order += [one.id for one in batch.step()]
    before_the_long_one = order.index(3)
    assert before_the_long_one >= 200 // 10 - 1


def test_a_seeded_row_draws_what_it_draws_alone_beside_others(runtime):
    seeded = Sampling(temperature=0.8, top_p=0.9, seed=5)
    batch = Batch(runtime.model)
    batch.add(row(runtime, 1, 12, seeded))
    batch.add(row(runtime, 2, 12, Sampling(temperature=1.5, seed=6)))
    batch.add(row(runtime, 4, 12))
    said, _ = run(batch)
    assert said[1] == alone(runtime, 1, 12, seeded)


def test_stops_are_each_rows_own(runtime):
    ids = alone(runtime, 0)
    batch = Batch(runtime.model)
    batch.add(row(runtime, 0, 20, stop=[ids[4]]))
    batch.add(row(runtime, 1, 20))
    said, ends = run(batch)
    assert said[0] == ids[: ids.index(ids[4]) + 1]
    assert ends == {0: "stop", 1: "length"}


@pytest.mark.parametrize("when", [1, 2, 5])
def test_a_removed_row_disturbs_no_other(runtime, when):
    batch = Batch(runtime.model, prefill_chunk=60)
    for number in range(3):
        batch.add(row(runtime, number, 15))
    said, ends = run(batch, lambda step: batch.remove(1) if step == when else None)
    assert set(ends) == {0, 2}
    for number in (0, 2):
        want = alone(runtime, number, 15)
        sure = margins_hold(runtime, number, want)
        assert said[number][:sure] == want[:sure]


@pytest.mark.parametrize("leaves", [False, True])
def test_a_batch_without_rows_holds_no_cache(runtime, leaves):
    """A step that was launched ahead holds the caches of its rows."""
    batch = Batch(runtime.model)
    batch.add(row(runtime, 0, 5))
    only = weakref.ref(batch.waiting[0])
    run(batch, lambda step: batch.remove(0) if leaves and step == 3 else None)
    gc.collect()
    assert only() is None


def test_an_interrupted_step_is_undone_and_can_be_taken_again(runtime, monkeypatch):
    batch = Batch(runtime.model)
    for number in range(2):
        batch.add(row(runtime, number, 10))
    first = [one for _ in range(4) for one in batch.step()]
    layer = batch.decoding[1].context.cache.layers[2]
    real = type(layer).advance

    def advance(self, tail, count):
        if self is layer:
            raise KeyboardInterrupt
        real(self, tail, count)

    with monkeypatch.context() as patch:
        patch.setattr(type(layer), "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            batch.step()
    said, _ = run(batch)
    for number in range(2):
        whole = [one.token for one in first if one.id == number] + said[number]
        want = alone(runtime, number, 10)
        sure = margins_hold(runtime, number, want)
        assert whole[:sure] == want[:sure]


def failing(layer, monkeypatch, error):
    """Make every read or extension of ``layer``, which is one row's, raise ``error``."""
    for method in ("append", "view"):
        real = getattr(type(layer), method)

        def call(self, *arguments, real=real):
            if self is layer:
                raise error
            return real(self, *arguments)

        monkeypatch.setattr(type(layer), method, call)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_row_that_fails_is_taken_out_and_disturbs_no_other(runtime, monkeypatch, phase):
    batch = Batch(runtime.model, prefill_chunk=60)
    for number in range(3):
        batch.add(row(runtime, number, 15))
    bad = batch.waiting[1]
    said = {}
    failed = []
    steps = 0
    while batch.busy:
        if (phase == "prefill" and bad in batch.reading) or (bad in batch.decoding and bad.produced == 6):
            failing(bad.context.cache.layers[2], monkeypatch, RuntimeError("no\nmore"))
        for one in batch.step():
            if isinstance(one, Failed):
                failed.append((one.id, one.problem))
            else:
                said.setdefault(one.id, []).append(one.token)
        steps += 1
        assert steps < 100
    assert [id for id, _ in failed] == [1]
    assert "no more" in failed[0][1]
    assert len(said.get(1, [])) == (0 if phase == "prefill" else 7), "the step in flight ends"
    for number in (0, 2):
        want = alone(runtime, number, 15)
        sure = margins_hold(runtime, number, want)
        assert len(said[number]) == 15
        assert said[number][:sure] == want[:sure]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The bundled model in float32."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    convert(checkpoint(), folder)
    return gptoss_mlx.load(folder, dtype="float32")


def test_the_bundled_model_answers_alike_alone_and_beside_a_cancelled_and_a_failing_row(tiny, monkeypatch):
    """Questions of 80 to 300 tokens, so that prompts and replies pass the window's length, seven rows at a time."""

    def asked(number):
        filler = "Please be brief. " * (0, 2, 6, 8, 11, 30, 33)[number % 7]
        question = Message("user", f"{filler}What is {100 + 37 * number} + {211 + 13 * number}?")
        return render([Message("system", System("medium", "2025-06-28")), question], tiny.tokenizer)

    prompts = [asked(number) for number in range(14)]
    lengths = sorted(map(len, prompts))
    assert lengths[0] < 100 < 128 < lengths[-1]
    assert any(length < 128 < length + 40 for length in lengths)
    batch = Batch(tiny.model, max_rows=7, prefill_chunk=50)
    rows = [Row(n, prompt, tiny.context(), 60, GREEDY, tiny.stop_ids) for n, prompt in enumerate(prompts)]
    for one in rows:
        batch.add(one)
    said = {}
    failed = []
    while batch.busy:
        if rows[3].produced == 9:
            batch.remove(3)
        if rows[5].produced == 4 and not failed:
            failing(rows[5].context.cache.layers[1], monkeypatch, RuntimeError("no"))
        for one in batch.step():
            if isinstance(one, Failed):
                failed.append(one.id)
            else:
                said.setdefault(one.id, []).append(one.token)
    assert failed == [5]
    monkeypatch.undo()
    sure_of = 0
    for number, prompt in enumerate(prompts):
        options = {"max_tokens": 60, "sampling": GREEDY, "stop": tiny.stop_ids}
        want = list(generate(tiny.context(), prompt, **options))
        top = np.sort(np.array(tiny.logits([prompt + want]))[0, len(prompt) - 1 : -1], axis=-1)[:, -2:]
        close = np.nonzero(top[:, 1] - top[:, 0] <= 1e-3)[0]
        sure = int(close[0]) if len(close) else len(want)
        count = {3: 9, 5: 5}.get(number, len(want))  # the failing row's step in flight ends
        assert said[number][: min(sure, count)] == want[: min(sure, count)]
        if sure == len(want):
            assert len(said[number]) == count
        sure_of += sure == len(want)
    assert sure_of >= 10, "of most replies every token is certain"


def test_where_no_row_can_be_computed_an_error_is_raised_and_all_rows_stay(runtime, monkeypatch):
    batch = Batch(runtime.model)
    for number in range(2):
        batch.add(row(runtime, number, 10))
    first = [one for _ in range(4) for one in batch.step()]
    with monkeypatch.context() as patch:
        patch.setattr(type(runtime.model), "decode", lambda *_: 1 / 0)
        first += batch.step()  # what was in flight
        with pytest.raises(EngineError, match="division by zero"):
            batch.step()
    said, _ = run(batch)
    for number in range(2):
        assert len([one for one in first if one.id == number]) + len(said[number]) == 10


def test_memory_admits_rows_by_what_they_may_grow_to(runtime):
    one = cache_bytes(runtime.config, LENGTHS[0] + 20, runtime.model.weights.dtype)
    batch = Batch(runtime.model, memory=2 * one + 1)
    for number in (0, 6, 12, 18):  # all of the first length
        batch.add(row(runtime, number, 20))
    most = 0

    def watch(step):
        nonlocal most
        most = max(most, len(batch.reading) + len(batch.decoding))

    run(batch, watch)
    assert most == 2
    with pytest.raises(MemoryBudgetError, match="fewer tokens"):
        batch.add(row(runtime, 3, 2000))
    with pytest.raises(ContextLengthError):
        batch.add(Row(9, [0] * 131072, runtime.context(), 1, GREEDY, frozenset()))


@pytest.mark.parametrize("count", [0, 1.5, "a", None])
def test_a_row_without_a_whole_number_of_tokens_is_refused(runtime, count):
    with pytest.raises(UsageError, match="max_tokens"):
        Batch(runtime.model).add(Row(1, [0], runtime.context(), count, GREEDY, frozenset()))


def test_the_formula_is_what_a_cache_holds(runtime):
    """For a context that decodes, without the room that a full layer keeps to grow."""
    context = runtime.context()
    context.read(prompt(3))
    context.read([*prompt(3), 5])
    layers = context.cache.layers
    room = sum((layer.body.shape[3] - layer.body_rows) * layer.body[:, :, :, 0].nbytes for layer in layers)
    held = sum(array.nbytes for array in context.cache.arrays())
    assert held - room == cache_bytes(runtime.config, 200, runtime.model.weights.dtype)
