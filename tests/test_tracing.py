"""What a trace holds is what transformers computes in float32, and what the runtime's own logits say."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.errors import ContextLengthError, MemoryBudgetError, UsageError
from gptoss_mlx.tracing import Trace, Tracer
from tests.oracle.cases import GOLDEN_CASES, sampled_rows
from tests.support.measure import relative_l2
from tests.support.models import random_model

GOLDENS = Path(__file__).parent / "data" / "goldens"
EVERYTHING = ("router_logits", "experts", "hidden", "sink_mass", "logits", "candidates", "surprise")


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory):
    return {case.name: random_model(tmp_path_factory.mktemp(case.name), case.sizes, case.seed) for case in GOLDEN_CASES}


@pytest.fixture(scope="module")
def small(runtimes):
    return runtimes["small"]


@pytest.mark.parametrize("chunk", [64, 300])
@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda case: case.name)
def test_a_trace_agrees_with_transformers_for_any_chunk(runtimes, case, chunk):
    runtime = runtimes[case.name]
    ids = case.tokens(300)
    parts = []
    tracer = Tracer(runtime.context(), ids, what=EVERYTHING, chunk=chunk)
    while not tracer.done:
        parts.append(tracer.read())
    trace = Trace.joined(parts)
    rows = sampled_rows(300)
    with np.load(GOLDENS / f"trace-{case.name}.npz") as golden:
        assert relative_l2(trace.router_logits[:, rows], golden["router_logits"]) <= 2e-6
        assert relative_l2(trace.hidden[:-1, rows], golden["hidden"]) <= 2e-6
        assert relative_l2(trace.sink_mass[:, rows], golden["sink_mass"]) <= 2e-6
        assert relative_l2(trace.surprise[1:], golden["surprise"]) <= 2e-6


def test_logits_of_a_trace_are_the_runtimes_own_bit_for_bit(small):
    ids = GOLDEN_CASES[0].tokens(300)
    trace = small.trace(ids, what=["logits"])
    assert np.array_equal(trace.logits, np.array(small.logits([ids]))[0])
    assert trace.router_logits is trace.hidden is trace.surprise is None


def test_candidates_are_the_likeliest_tokens_and_surprise_is_that_of_each_token(small):
    ids = GOLDEN_CASES[0].tokens(129)
    trace = small.trace(ids, what=EVERYTHING, top=3)
    logprobs = np.array(mx.array(trace.logits) - mx.logsumexp(mx.array(trace.logits), axis=-1, keepdims=True))
    assert trace.candidates.shape == trace.candidate_logprobs.shape == (129, 3)
    assert np.array_equal(trace.candidates, np.argsort(-logprobs, axis=-1, kind="stable")[:, :3])
    assert np.array_equal(trace.candidate_logprobs, -np.sort(-logprobs, axis=-1)[:, :3])
    assert np.isnan(trace.surprise[0])
    for at in (1, 63, 64, 65, 128):
        assert trace.surprise[at] == pytest.approx(-logprobs[at - 1, ids[at]], abs=1e-6)


def test_experts_are_the_rows_likeliest_by_their_router_logits(small):
    trace = small.trace(GOLDEN_CASES[0].tokens(129), what=["router_logits", "experts"])
    K = small.config.num_experts_per_tok
    assert np.array_equal(trace.experts, np.argsort(-trace.router_logits, axis=-1, kind="stable")[..., :K])
    assert trace.expert_weights.sum(axis=-1) == pytest.approx(1)
    own = np.take_along_axis(trace.router_logits, trace.experts, axis=-1)
    wanted = np.exp(own - own.max(-1, keepdims=True))
    assert trace.expert_weights == pytest.approx(wanted / wanted.sum(-1, keepdims=True), abs=1e-6)


def test_layers_are_those_asked_for(small):
    ids = GOLDEN_CASES[0].tokens(40)
    every, some = small.trace(ids), small.trace(ids, layers=[1, 3])
    assert some.layers == (1, 3)
    for name in ("router_logits", "experts", "expert_weights", "sink_mass"):
        assert np.array_equal(getattr(some, name), getattr(every, name)[[1, 3]])


def test_experts_in_slots_give_the_same_trace(small):
    ids = GOLDEN_CASES[0].tokens(129)
    paged = gptoss_mlx.load(small.folder.path, dtype="float32", slots=4)
    assert paged.model.may_miss
    got, wanted = paged.trace(ids, what=EVERYTHING), small.trace(ids, what=EVERYTHING)
    assert np.array_equal(got.experts, wanted.experts)
    for name in ("router_logits", "hidden", "sink_mass", "logits"):
        assert relative_l2(getattr(got, name), getattr(wanted, name)) <= 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ids": []}, "empty"),
        ({"ids": [512]}, "vocabulary"),
        ({"ids": [1, 2], "layers": [4]}, "from 0 to 3"),
        ({"ids": [1, 2], "layers": [1, 1]}, "rising order"),
        ({"ids": [1, 2], "layers": []}, "rising order"),
        ({"ids": [1, 2], "what": ["attention"]}, "these can"),
        ({"ids": [1, 2], "what": "experts"}, "give a list"),
        ({"ids": [1, 2], "layers": [1.5]}, "a layer is 1.5"),
        ({"ids": [1, 2], "top": 0}, "1 or more"),
        ({"ids": [1, 2], "top": 513}, "from 1 to 512"),
    ],
)
def test_what_cannot_be_traced_is_refused(small, options, said):
    with pytest.raises(UsageError, match=said):
        small.trace(**options)


def test_a_text_longer_than_the_context_is_refused(small):
    with pytest.raises(ContextLengthError, match="shorten"):
        small.trace([1] * (small.config.max_position_embeddings + 1))


def test_a_trace_that_does_not_fit_the_plan_is_refused_before_any_work(small, monkeypatch):
    ids = [1] * 2000
    monkeypatch.setattr(Tracer, "read", lambda self: pytest.fail("nothing may be read"))
    monkeypatch.setattr(type(small), "row_memory", property(lambda self: 10_000_000))
    with pytest.raises(MemoryBudgetError, match="fewer layers"):
        small.trace(ids, what=["hidden"])
    with pytest.raises(pytest.fail.Exception):  # what takes little would be read
        small.trace(ids, layers=[0], what=["surprise"])
