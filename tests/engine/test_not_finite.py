"""Logits that are not finite end the reply they belong to. No id is drawn from them, and nothing resumes from them."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.errors import EngineError
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch

GREEDY = Sampling(temperature=0)
WAYS = (
    GREEDY,
    Sampling(seed=1),
    Sampling(top_p=0.9, seed=1),
    Sampling(top_k=5, seed=1),
    Sampling(min_p=0.1, seed=1),
)
PROMPT = list(range(40, 60))


def planted(array, value, *place):
    changed = np.array(array.astype(mx.float32))
    changed[place] = value
    return mx.array(changed).astype(array.dtype)


def with_weights(runtime, **changes):
    return replace(runtime, model=Decoder(runtime.config, replace(runtime.model.weights, **changes)))


def with_norm(runtime, value) -> Runtime:
    return with_weights(runtime, norm=planted(runtime.model.weights.norm, value, 3))


def with_head(runtime, value) -> Runtime:
    """Make the logit of one token ``value``, NaN or an infinity. All others stay finite."""
    head = runtime.model.weights.head
    return with_weights(runtime, head=head._replace(weight=planted(head.weight, value, 511, 5)))


def with_poison(runtime, token, value=np.nan) -> Runtime:
    """Make the embedding of ``token`` hold ``value``."""
    table = runtime.model.weights.embedding
    return with_weights(runtime, embedding=table._replace(weight=planted(table.weight, value, token, 7)))


def said(runtime, sampling=GREEDY, count=12, prompt=PROMPT):
    return list(generate(runtime.context(), prompt, max_tokens=count, sampling=sampling, stop=()))


@pytest.mark.parametrize("sampling", WAYS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spoil", [with_norm, with_head])
def test_the_first_id_is_refused(runtime, spoil, value, sampling):
    with pytest.raises(EngineError, match="not finite"):
        said(spoil(runtime, value), sampling)


@pytest.mark.parametrize("kernels", ["off", "emulated"])
@pytest.mark.parametrize("sampling", WAYS[:2], ids=str)
def test_ids_drawn_before_are_given_and_then_it_ends(runtime, sampling, kernels, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, kernels)
    want = said(runtime, sampling, 4)
    assert want[2] not in PROMPT + want[:2]
    spoilt = with_poison(runtime, want[2])
    got = []
    ids = spoilt.generate(PROMPT, max_tokens=9, temperature=sampling.temperature, seed=1, stop=())
    with pytest.raises(EngineError, match="not finite"):
        got.extend(ids)
    assert got == want[:3]


@pytest.mark.parametrize("length", [1, 30])
def test_nothing_resumes_from_a_chunk_with_such_numbers(runtime, length):
    """A prompt of one chunk and one of three end with the poisoned token. The next prompt shares all but that token."""
    spoilt = with_poison(runtime, 300)
    before = PROMPT[:1] * length
    context = spoilt.context()
    with pytest.raises(EngineError):
        list(generate(context, [*before, 300], max_tokens=3, sampling=GREEDY, stop=(), prefill_chunk=12))
    assert context.ids == before[: length // 12 * 12]
    again = list(generate(context, [*before, 301], max_tokens=3, sampling=GREEDY, stop=()))
    assert again == said(runtime, count=3, prompt=[*before, 301])


def test_a_context_can_be_used_again_after_a_reply_that_ended_so(runtime):
    want = said(runtime, count=3)
    spoilt = with_poison(runtime, want[1])
    context = spoilt.context()
    with pytest.raises(EngineError):
        list(generate(context, PROMPT, max_tokens=9, sampling=GREEDY, stop=()))
    longer = [*PROMPT, *range(100, 105)]
    again = list(generate(context, longer, max_tokens=2, sampling=GREEDY, stop=()))
    assert again == said(runtime, count=2, prompt=longer)


@pytest.mark.parametrize("sampling", WAYS[:3], ids=str)
@pytest.mark.parametrize("when", ["prompt", "decode"])
def test_of_rows_decoded_together_only_the_poisoned_one_fails(runtime, when, sampling):
    prompts = {"a": PROMPT, "bad": list(range(100, 130)), "b": list(range(200, 210))}
    want = {id: said(runtime, sampling, 10, prompt) for id, prompt in prompts.items()}
    poison = 119 if when == "prompt" else want["bad"][4]
    others = {*prompts["a"], *prompts["b"], *want["a"], *want["b"], *want["bad"][:4]}
    assert poison not in others
    spoilt = with_poison(runtime, poison, np.inf)
    batch = Batch(spoilt.model)
    got = {}
    failed = []
    for id, prompt in prompts.items():
        batch.add(Row(id, prompt, spoilt.context(), 10, sampling, frozenset()))
    while batch.busy:
        for one in batch.step():
            if isinstance(one, Failed):
                failed.append((one.id, one.problem))
            else:
                got.setdefault(one.id, []).append(one.token)
    assert [id for id, _ in failed] == ["bad"]
    assert "not finite" in failed[0][1]
    assert got.pop("bad", []) == ([] if when == "prompt" else want["bad"][:5])
    assert got == {"a": want["a"], "b": want["b"]}
