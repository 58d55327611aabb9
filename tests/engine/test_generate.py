"""Generation does not depend on how the prompt was read, and can be stopped anywhere without harm."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.context import Cancelled
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.sampling import points, sample
from gptoss_mlx.errors import ContextLengthError, EngineError, UsageError
from gptoss_mlx.runtime import load
from gptoss_mlx.sampling import Sampling

GREEDY = Sampling(temperature=0)


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(0, 512, length).tolist()


def greedy(runtime, context, ids, count, **options):
    return list(generate(context, ids, max_tokens=count, sampling=GREEDY, stop=(), **options))


def steady_until(runtime, ids, count):
    """Return greedy ids, reading everything again for each, up to where the top two logits lie within 1e-3."""
    out = []
    while len(out) < count:
        top = np.sort(np.array(runtime.logits([ids + out])[0, -1]))[-2:]
        if top[1] - top[0] <= 1e-3:
            break
        out.append(int(mx.argmax(runtime.logits([ids + out])[0, -1]).item()))
    return out


@pytest.mark.parametrize("length", [5, 120, 200])
def test_greedy_ids_are_those_of_reading_everything_again_for_any_prefill_chunk(runtime, length):
    """120 and 16 more pass the window's length during decoding, 200 during prefill."""
    ids = prompt(length)
    want = steady_until(runtime, ids, 16)
    assert len(want) >= 8
    for chunk in (1, 7, 64, 512):
        assert greedy(runtime, runtime.context(), ids, 16, prefill_chunk=chunk)[: len(want)] == want


@pytest.mark.parametrize("stop_after", [1, 2, 9])
def test_a_closed_iterator_leaves_a_context_with_exactly_the_ids_it_has_read(runtime, stop_after):
    ids = prompt(130)
    context = runtime.context()
    stream = generate(context, ids, max_tokens=20, sampling=GREEDY, stop=())
    got = [next(stream) for _ in range(stop_after)]
    stream.close()
    assert context.ids == (ids + got)[: len(context.ids)]
    assert len(context.ids) == len(ids) + (stop_after if stop_after > 1 else 0), "the first id comes before it is read"
    assert context.cache.length == len(context.ids)
    more = prompt(20, seed=1)
    assert greedy(runtime, context, ids + got + more, 8) == greedy(runtime, runtime.context(), ids + got + more, 8)


def test_rewinding_to_a_mark_gives_what_a_cold_start_gives(runtime):
    ids = prompt(140)
    context = runtime.context()
    answer = greedy(runtime, context, ids, 30)
    other = [*ids, *answer[:3], *prompt(25, seed=2)]
    assert context.rewind(other) == len(ids), "the prompt was marked when it had been read"
    assert greedy(runtime, context, other, 8) == greedy(runtime, runtime.context(), other, 8)


@pytest.mark.parametrize(("same", "more"), [(0, 3), (1, 3), (139, 3), (140, 0)])
def test_a_prompt_that_shares_a_beginning_is_answered_as_from_cold(runtime, same, more):
    """With 139 of 140 only the last id differs. With 140 and 0 the prompt is the same, and needs its logits again."""
    ids = prompt(140)
    context = runtime.context()
    greedy(runtime, context, ids, 1)
    other = ids[:same] + [(id + 1) % 512 for id in ids[same:]] + prompt(more, seed=4)
    assert greedy(runtime, context, other, 6) == greedy(runtime, runtime.context(), other, 6)


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize(("method", "more"), [("append", 30), ("advance", 3)])
def test_an_error_inside_a_step_is_undone_in_every_layer(runtime, layer, method, more, monkeypatch):
    ids = prompt(150)
    context = runtime.context()
    greedy(runtime, context, ids, 1)
    before = list(context.ids)
    broken = context.cache.layers[layer]
    real = getattr(type(broken), method)

    def interrupted(self, *arguments):
        if self is broken:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(broken), method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            greedy(runtime, context, ids + prompt(more, seed=3), 4)
    assert context.ids == before
    assert {one.length for one in context.cache.layers} == {len(before)}
    longer = ids + prompt(more, seed=3)
    assert greedy(runtime, context, longer, 6) == greedy(runtime, runtime.context(), longer, 6)


def test_cancelling_between_prefill_chunks_keeps_what_was_read(runtime):
    ids = prompt(100)
    context = runtime.context()
    asked = []

    def cancelled():
        asked.append(len(context.ids))
        return len(asked) > 3

    with pytest.raises(Cancelled):
        greedy(runtime, context, ids, 4, prefill_chunk=10, cancelled=cancelled)
    assert asked == [0, 10, 20, 30]
    assert context.ids == ids[:30]
    assert greedy(runtime, context, ids, 4) == greedy(runtime, runtime.context(), ids, 4)


def test_stop_ids_end_generation_and_are_yielded(runtime):
    ids = prompt(20)
    free = greedy(runtime, runtime.context(), ids, 12)
    stop = free[5]
    got = list(generate(runtime.context(), ids, max_tokens=12, sampling=GREEDY, stop={stop}))
    assert got == free[: free.index(stop) + 1]


def test_the_graph_does_not_grow_with_the_tokens(runtime):
    """An unevaluated cache would keep every step's graph alive."""
    context = runtime.context()
    stream = generate(context, prompt(130), max_tokens=400, sampling=GREEDY, stop=())
    for _ in range(50):
        next(stream)
    mx.synchronize()
    start = mx.get_active_memory()
    for _ in range(300):
        next(stream)
    mx.synchronize()
    full = sum(a.nbytes for layer in context.cache.layers[1::2] for a in (layer.body, layer.tail))
    assert mx.get_active_memory() - start < full + (1 << 20)


@pytest.mark.parametrize("length", [131072, 131073])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_counts(runtime, length):
    with pytest.raises(ContextLengthError, match=rf"{length:,}.*131,072"):
        next(runtime.generate([0] * length, max_tokens=1))


def test_what_mlx_cannot_compute_is_one_line_and_the_context_can_be_used_again(runtime, monkeypatch):
    ids = prompt(40)
    context = runtime.context()

    def fail(*_):
        raise RuntimeError("[malloc] Unable to allocate\n 99999 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(type(runtime.model), "__call__", fail)
        with pytest.raises(EngineError, match=r"Unable to allocate 99999 bytes"):
            greedy(runtime, context, ids, 4)
    assert greedy(runtime, context, ids, 4) == greedy(runtime, runtime.context(), ids, 4)


def test_every_token_is_a_draw_of_its_own(runtime):
    """At the highest temperature all 512 ids are about as likely, but one key for all draws would repeat one id."""
    drawn = list(runtime.generate(prompt(5), max_tokens=60, temperature=100.0, seed=1, stop=()))
    assert len(set(drawn)) > 45


def test_generation_ends_where_the_context_is_full(runtime, monkeypatch):
    monkeypatch.setattr(runtime.model, "config", replace(runtime.config, max_position_embeddings=24))
    assert len(greedy(runtime, runtime.context(), prompt(20), 100)) == 4


@pytest.mark.parametrize(
    "bad",
    [
        *({"max_tokens": value} for value in (0, -1, None, 1.5, "a", True, float("inf"), [3])),
        *(
            {"tokens": value}
            for value in ([], None, 3, "abc", [1.5], ["1"], [None], [True], [[1]], [512], [-1], [2**70])
        ),
        *({"stop": value} for value in (3, "abc", [1.5], [None], [[1]])),
        {"temperature": float("nan")},
        {"top_k": 2.5},
        {"seed": 1.5},
    ],
    ids=lambda bad: "-".join(bad),
)
def test_bad_arguments_are_refused_at_once_and_in_one_line(runtime, bad):
    with pytest.raises(UsageError) as refused:
        runtime.generate(**{"tokens": [1], "max_tokens": 5} | bad)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 150


def test_ids_and_counts_may_be_numpys(runtime):
    odd = runtime.generate(np.array(prompt(9)), max_tokens=np.int32(4), temperature=0, stop=np.array([], int))
    assert list(odd) == list(runtime.generate(prompt(9), max_tokens=4, temperature=0, stop=()))


def test_generation_defaults_may_be_null(runtime):
    folder = replace(runtime.folder, generation={"eos_token_id": None, "temperature": None, "top_k": 5})
    other = replace(runtime, folder=folder)
    assert other.sampling() == Sampling(top_k=5)
    assert other.sampling(top_k=0, temperature=0.5) == Sampling(temperature=0.5)
    special = runtime.tokenizer.special
    assert other.stop_ids == {special[marker] for marker in ("<|return|>", "<|call|>", "<|endoftext|>")}
    assert replace(runtime, folder=replace(folder, generation={"eos_token_id": 3})).stop_ids == other.stop_ids | {3}
    with pytest.raises(UsageError, match="temperature"):
        other.sampling(temperature="a")


@pytest.mark.parametrize("marker", ["<|end|>", "<|start|>", "<|message|>", "<|channel|>", "<|constrain|>"])
def test_a_marker_inside_a_reply_never_ends_it_whatever_the_folder_says(runtime, marker):
    id = runtime.tokenizer.special[marker]
    for listed in (id, [3, id]):
        other = replace(runtime, folder=replace(runtime.folder, generation={"eos_token_id": listed}))
        assert id not in other.stop_ids
        assert other.stop_ids >= {runtime.tokenizer.special["<|return|>"]} | ({3} if listed != id else set())


@pytest.mark.parametrize("tokens", [None, "abc", [1, 2], [[1], [1, 2]], [[1.5]], [[]], [[512]], [[-1]], [[2**70]]])
def test_tokens_that_are_no_rows_of_ids_are_refused(runtime, tokens):
    with pytest.raises(UsageError) as refused:
        runtime.logits(tokens)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", ["float16", "double", mx.float16, 3])
def test_a_dtype_that_is_not_offered_is_refused(runtime, dtype):
    with pytest.raises(UsageError, match="float32 or bfloat16"):
        load(runtime.folder.path, dtype=dtype)


def test_cancelling_between_tokens_ends_at_the_next_one(runtime):
    got = []
    context = runtime.context()
    options = {"max_tokens": 50, "sampling": GREEDY, "stop": (), "cancelled": lambda: len(got) >= 3}
    for token in generate(context, prompt(20), **options):
        got += [token]
    assert len(got) <= 4
    assert context.ids == prompt(20) + got


def test_nothing_piles_up_where_nothing_is_drawn():
    """A key split for each token and never evaluated is a graph as long as the reply: 2 KB a token."""
    for temperature in (0.0, 1.0):
        sampling = Sampling(temperature=temperature)
        drawn_at = points(sampling)
        next(drawn_at)
        start = mx.get_active_memory()
        for _ in range(2000):
            mx.eval(sample(mx.zeros((1, 8)), sampling, next(drawn_at)))
        assert mx.get_active_memory() - start < 100_000


@pytest.mark.parametrize("late", [True, False])
def test_a_step_in_flight_that_fails_is_forgotten_and_can_be_taken_again(runtime, monkeypatch, late):
    """MLX reports a GPU's error one step late, when the cache already holds the next step. An error at the launch of a
    step comes when the one before it has given its token."""
    ids = prompt(150)
    context = runtime.context()
    stream = generate(context, ids, max_tokens=30, sampling=GREEDY, stop=())
    got = [next(stream) for _ in range(5)]

    def failing(*_):
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")

    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval" if late else "async_eval", failing)
        with pytest.raises(EngineError, match="Insufficient Memory"):
            got.extend(stream)
    assert len(got) == (5 if late else 6)
    assert context.ids == ids + got[:-1], "the last token was read by the step that failed"
    assert context.cache.length == len(context.ids)
    longer = ids + prompt(3, seed=3)
    assert greedy(runtime, context, longer, 6) == greedy(runtime, runtime.context(), longer, 6)


def test_warming_up_computes_two_tokens_and_keeps_nothing(runtime, monkeypatch):
    written = []

    def watched(context, prompt, **options):
        for id in generate(context, prompt, **options):
            written.append(id)
            yield id

    ids = prompt(40)
    want = greedy(runtime, runtime.context(), ids, 8)
    monkeypatch.setattr("gptoss_mlx.runtime.generate", watched)
    runtime.warm_up()
    assert len(written) == 2
    assert runtime.reusable(runtime.context(), [0, *written]) == 0
    assert greedy(runtime, runtime.context(), ids, 8) == want
