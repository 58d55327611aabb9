"""Penalties, biases and log-probabilities, each beside its definition in numpy on the logits of the whole sequence."""

import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.errors import EngineError, UsageError
from gptoss_mlx.sampling import Sampling

PROMPT = list(range(3, 20))
COUNT = 24


def logits_after(runtime, ids):
    return np.array(runtime.logits([ids]), dtype=np.float64)[0, -1]


def draw(batch, runtime, **options):
    """Return the ids and scores of greedy rows, one for each sampling, decoded together."""
    samplings = options.pop("samplings")
    for number, sampling in enumerate(samplings):
        batch.add(Row(number, PROMPT, runtime.context(), COUNT, sampling, frozenset(), **options))
    found = {number: [] for number in range(len(samplings))}
    while batch.busy:
        for outcome in batch.step():
            found[outcome.id].append(outcome)
    return [([outcome.token for outcome in one], [outcome.score for outcome in one]) for one in found.values()]


PENALTIES = [
    Sampling(temperature=0, frequency_penalty=1.5),
    Sampling(temperature=0, presence_penalty=2.0, logit_bias=((7, 1.25), (9, -100.0))),
    Sampling(temperature=0, frequency_penalty=-0.5, presence_penalty=0.25),
]


def test_penalties_and_biases_are_openai_s_and_leave_neighbours_alone(runtime):
    plain = Sampling(temperature=0)
    rows = draw(Batch(runtime.model), runtime, samplings=[*PENALTIES, plain])
    alone = list(generate(runtime.context(), PROMPT, max_tokens=COUNT, sampling=plain, stop=()))
    assert rows[-1][0] == alone
    for sampling, (ids, _) in zip(PENALTIES, rows[:-1], strict=True):
        assert ids != alone
        counts = np.zeros(runtime.config.vocab_size)
        for number, id in enumerate(ids):
            logits = logits_after(runtime, PROMPT + ids[:number])
            for biased, value in sampling.logit_bias:
                logits[biased] += value
            logits -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
            assert logits[id] >= logits.max() - 1e-4
            counts[id] += 1


def test_a_bias_of_100_decides(runtime):
    for sampling in (Sampling(temperature=0, logit_bias=((5, 100.0),)), Sampling(seed=1, logit_bias=((5, 100.0),))):
        ids = list(generate(runtime.context(), PROMPT, max_tokens=3, sampling=sampling, stop=()))
        assert ids == [5, 5, 5]


def test_a_score_is_the_model_s_own_whatever_the_draw(runtime):
    for sampling in (Sampling(temperature=0), Sampling(temperature=1.7, top_k=9, seed=3), PENALTIES[0]):
        ((ids, scores),) = draw(Batch(runtime.model), runtime, samplings=[sampling], likeliest=4)
        for number, (id, score) in enumerate(zip(ids, scores, strict=True)):
            logits = logits_after(runtime, PROMPT + ids[:number])
            logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert score.logprob == pytest.approx(logprobs[id], abs=1e-4)
            best = np.sort(logprobs)[::-1][:4]
            assert [value for _, value in score.likeliest] == pytest.approx(list(best), abs=1e-4)
            assert [logprobs[other] for other, _ in score.likeliest] == pytest.approx(list(best), abs=1e-4)


def test_nobody_who_does_not_ask_is_told(runtime):
    ((_, scores),) = draw(Batch(runtime.model), runtime, samplings=[Sampling(seed=2)])
    assert scores == [None] * COUNT


def test_what_a_failed_step_gave_out_does_not_count(runtime, monkeypatch):
    """The step is taken again, and the penalty is that of the ids that were really given out."""
    sampling = Sampling(temperature=0, frequency_penalty=1.5)
    want = list(generate(runtime.context(), PROMPT, max_tokens=COUNT, sampling=sampling, stop=()))
    batch = Batch(runtime.model)
    for number in range(2):
        batch.add(Row(number, PROMPT, runtime.context(), COUNT, sampling, frozenset()))
    real = type(runtime.model).decode
    calls = 0

    def decode(self, tokens, caches):
        nonlocal calls
        calls += 1
        if calls % 4 == 0 and len(caches) == 2:
            raise EngineError("once")
        return real(self, tokens, caches)

    monkeypatch.setattr(type(runtime.model), "decode", decode)
    found = {0: [], 1: []}
    while batch.busy:
        for outcome in batch.step():
            assert not isinstance(outcome, Failed), outcome
            found[outcome.id].append(outcome.token)
    assert found == {0: want, 1: want}


def test_a_bias_outside_the_vocabulary_is_refused_before_any_work(runtime):
    wrong = Sampling(logit_bias=((10**6, 1.0),))
    with pytest.raises(UsageError, match="logit_bias"):
        Batch(runtime.model).add(Row(0, PROMPT, runtime.context(), 1, wrong, frozenset()))
    with pytest.raises(UsageError, match="logit_bias"):
        next(generate(runtime.context(), PROMPT, max_tokens=1, sampling=wrong, stop=()))


@pytest.mark.parametrize(
    "values",
    [
        {"presence_penalty": 2.1},
        {"frequency_penalty": float("nan")},
        {"logit_bias": ((1, 101.0),)},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": 5},
        {"logit_bias": ((1,),)},
    ],
)
def test_values_out_of_range_are_refused_by_name(values):
    with pytest.raises(UsageError, match=next(iter(values))):
        Sampling(**values)
