"""Text without harmony, and how likely the model finds a text, in the shape that lm-eval reads."""

import openai
import pytest


def test_text_goes_on_from_a_text_and_from_its_ids(client, server):
    done = client.completions.create(model="m", prompt="What is 12", max_tokens=5, temperature=0)
    (choice,) = done.choices
    assert choice.text
    assert choice.finish_reason in ("length", "stop")
    assert done.usage.completion_tokens <= 5
    echoed = client.completions.create(model="m", prompt="What is 12", max_tokens=5, temperature=0, echo=True)
    assert echoed.choices[0].text == "What is 12" + choice.text
    chunks = client.completions.create(model="m", prompt="What is 12", max_tokens=5, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text


def test_the_likelihood_of_a_text_as_lm_eval_asks_for_it(client):
    """Two prompts at once, as ids. lm-eval leaves out the last token, and calls a text greedy whose tokens are each
    the likeliest."""
    asked = {"model": "m", "prompt": [[5, 6, 7, 8], [9, 10, 11]], "max_tokens": 1, "logprobs": 1, "echo": True}
    done = client.completions.create(**asked, temperature=0, seed=1234)
    assert [choice.index for choice in done.choices] == [0, 1]
    for choice, length in zip(done.choices, (4, 3), strict=True):
        found = choice.logprobs
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == length + 1
        assert found.token_logprobs[0] is None
        assert all(logprob < 0 for logprob in found.token_logprobs[1:])
        # The added token is greedy, so it is the likeliest.
        assert max(found.top_logprobs[-1].values()) == found.token_logprobs[-1]
        assert "".join(found.tokens) == choice.text
    only = client.completions.create(**asked | {"max_tokens": 0})
    assert only.choices[0].logprobs.token_logprobs == done.choices[0].logprobs.token_logprobs[:-1]
    assert only.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body={"model": "m", "prompt": "Hi"} | fields, cast_to=object)
    assert caught.value.param == param
