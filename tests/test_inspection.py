"""What inspect says of a text is what the model's own logits say."""

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.errors import UsageError
from gptoss_mlx.inspection import (
    ExpertUse,
    Passage,
    answered,
    expert_use,
    perplexity,
    seen_tokens,
    spelled,
    text_passage,
)


@pytest.fixture(scope="module")
def tiny():
    return gptoss_mlx.load("tiny")


@pytest.fixture(scope="module")
def asked(tiny):
    return answered(tiny, "What is 4821 - 3977?")


def nothing(read, total):
    pass


def test_experts_are_counted_as_the_router_logits_choose_them(tiny):
    passage = text_passage(tiny, "12 + 30 = 42. " * 60)
    assert len(passage.ids) > tiny.chunk, "more than one part"
    use = expert_use(tiny, passage, nothing)
    logits = tiny.trace(passage.ids, what=["router_logits"]).router_logits.astype(np.float64)
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :4]
    for layer in range(4):
        assert use.counts[layer].tolist() == [(chosen[layer] == expert).sum() for expert in range(8)]
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert use.choice_bits == pytest.approx(-(shares * np.log2(shares)).sum(axis=-1).mean(axis=-1), abs=1e-5)


def test_an_even_load_uses_all_experts_and_a_single_one_itself():
    use = ExpertUse(10, np.array([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]]), np.zeros(3))
    assert use.in_use == pytest.approx([4, 1, 2])
    assert use.load.sum(axis=1) == pytest.approx(1)


def test_perplexity_is_that_of_the_logits(tiny):
    passage = text_passage(tiny, "3 + 4 = 7, and 30 + 40 = 70.")
    logits = mx.array(tiny.logits([passage.ids]))[0, :-1]
    wanted = mx.exp(mx.mean(mx.logsumexp(logits, axis=-1) - logits[mx.arange(len(logits)), mx.array(passage.ids[1:])]))
    seen = seen_tokens(tiny, passage, 3, nothing)
    assert [token.id for token in seen] == passage.ids
    assert (seen[0].surprise, seen[0].candidates) == (None, ())
    assert perplexity(seen) == pytest.approx(wanted.item(), rel=1e-5)


def test_a_reply_is_inspected_without_its_prompt_and_was_the_likeliest(tiny, asked):
    seen = seen_tokens(tiny, asked, 3, nothing)
    assert [token.at for token in seen] == list(range(asked.begin, len(asked.ids)))
    for token in seen:  # a greedy reply
        assert token.id == token.candidates[0].id
        assert 2**-token.surprise == pytest.approx(token.candidates[0].probability, rel=1e-4)
        assert len(token.candidates) == 3
    assert "".join(token.text for token in seen).endswith("<|return|>")


def test_the_first_candidates_of_a_reply_come_from_its_prompt(tiny, asked):
    whole = seen_tokens(tiny, Passage(asked.ids), 3, nothing)
    assert seen_tokens(tiny, asked, 3, nothing) == whole[asked.begin :]


def test_bytes_that_are_no_character_are_spelled_out(tiny):
    ids = tiny.tokenizer.encode("é")
    spelt = [spelled(tiny.tokenizer, id) for id in ids]
    assert spelt in (["é"], ["<C3>", "<A9>"])
    assert spelled(tiny.tokenizer, tiny.tokenizer.special["<|end|>"]) == "<|end|>"


@pytest.mark.parametrize("text", ["", "7"])
def test_a_text_that_foretells_nothing_is_refused(tiny, text):
    with pytest.raises(UsageError, match="two or more"):
        text_passage(tiny, text)
