"""No memory in the native library, and Ctrl-C while it computes, end a reply in one line and leave a usable context."""

import signal
import time
from functools import partial

import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.errors import EngineError
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch
from metal_kernels.cpu import library

pytestmark = pytest.mark.skipif(launch.where() != "cpu", reason="the native library is not used here")

GREEDY = Sampling(temperature=0)
PROMPT = np.random.default_rng(4).integers(0, 512, 700).tolist()


@pytest.fixture
def without_memory(monkeypatch):
    """A function after which the given operation finds no memory from its nth call on."""

    def spoil(name, calls=1):
        loaded = library.library()
        whole = loaded.functions[name]
        made = []

        def function(*arguments):
            made.append(name)
            return 1 if len(made) >= calls else whole(*arguments)

        monkeypatch.setitem(loaded.functions, name, function)

    return spoil


def said(runtime, context, prompt, count=4):
    return list(generate(context, prompt, max_tokens=count, sampling=GREEDY, stop=()))


READING = ("norm_qkv_rope", "prefill_attention", "output_residual", "norm_router", "expert_mlp_grouped", "norm_head")
DECODING = ("decode_attention", "expert_gate_up", "expert_down_residual", "norm_head_argmax")


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("name", [*READING, *DECODING])
def test_no_memory_ends_a_reply_in_one_line_and_the_context_can_be_used_again(
    runtime, without_memory, monkeypatch, name, calls
):
    context = runtime.context()
    prompt = PROMPT[:40]
    said(runtime, context, prompt)
    longer = [*context.ids, *PROMPT[40:80]]
    want = said(runtime, runtime.context(), longer)
    without_memory(name, 1 if name == "norm_head" else calls)  # a reply calls it once
    with pytest.raises(EngineError, match=f"no memory for {name}") as raised:
        said(runtime, context, longer)
    assert "\n" not in str(raised.value)
    monkeypatch.undo()
    assert context.cache.length == len(context.ids)
    assert said(runtime, context, longer) == want


def test_a_batch_without_memory_fails_row_by_row(runtime, without_memory):
    batch = Batch(runtime.model)
    for id in range(2):
        batch.add(Row(id, PROMPT[id : id + 30], runtime.context(), 5, GREEDY, frozenset()))
    without_memory("prefill_attention")
    outcomes = [one for _ in range(3) if batch.busy for one in batch.step()]
    assert [(one.id, one.problem) for one in outcomes if isinstance(one, Failed)] == [
        (id, "the model cannot be run: no memory for prefill_attention") for id in range(2)
    ]
    assert not batch.busy


@pytest.fixture
def interrupted():
    """A function that calls another, and after some seconds raises KeyboardInterrupt in it. It returns whether that was
    before its end."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    def call(seconds, function):
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            function()
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    before = signal.signal(signal.SIGALRM, interrupt)
    yield call
    signal.signal(signal.SIGALRM, before)


def test_ctrl_c_at_any_moment_leaves_what_was_read_before_it(runtime, interrupted):
    """Between two operations of a prompt's chunk, and of a decode step that has written into tails."""
    want = said(runtime, runtime.context(), PROMPT, 40)
    start = time.perf_counter()
    assert said(runtime, runtime.context(), PROMPT, 40) == want
    whole = time.perf_counter() - start
    context = runtime.context()
    count = 0
    for part in np.random.default_rng(1).uniform(0.01, 1, 40):
        count += interrupted(part * whole, partial(said, runtime, context, PROMPT, 40))
        assert context.cache.length == len(context.ids)
        assert context.ids == [*PROMPT, *want][: len(context.ids)]
        if part < 0.3:
            context = runtime.context()
    assert count >= 10
    assert said(runtime, context, PROMPT, 40) == want
