"""Log-probabilities, penalties and biases through OpenAI's client."""

import math

import openai
import pytest

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.home import models_dir
from tests.server.said import ANSWER

SUM = {"model": "m", "messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0}
ASKED = {"model": "m", "input": "What is 12 + 30?", "temperature": 0, "include": ["message.output_text.logprobs"]}


def spelled(entries):
    return b"".join(bytes(entry.bytes) for entry in entries).decode()


def test_each_token_of_an_answer_has_its_own_and_the_likeliest(client):
    done = client.chat.completions.create(**SUM, logprobs=True, top_logprobs=3).choices[0]
    entries = done.logprobs.content
    assert spelled(entries) == done.message.content
    assert done.message.reasoning_content  # whose tokens have none
    for entry in entries:
        assert entry.token == entry.top_logprobs[0].token  # because it is greedy
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert sum(math.exp(other.logprob) for other in entry.top_logprobs) <= 1 + 1e-6


def test_a_stream_has_the_same_with_the_text_that_they_belong_to(client):
    whole = client.chat.completions.create(**SUM, logprobs=True).choices[0].logprobs.content
    streamed = []
    for chunk in client.chat.completions.create(**SUM, logprobs=True, stream=True):
        choice = chunk.choices[0]
        if choice.logprobs is not None:
            assert spelled(choice.logprobs.content) == choice.delta.content
            streamed += choice.logprobs.content
    assert streamed == whole


def test_a_response_has_them_in_its_part_and_in_its_deltas(client):
    done = client.responses.create(**ASKED, top_logprobs=2)
    (part,) = done.output[-1].content
    assert "".join(entry.token for entry in part.logprobs) == done.output_text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    with client.responses.stream(**ASKED, top_logprobs=2) as stream:
        deltas = [event for event in stream if event.type == "response.output_text.delta"]
    assert [entry.token for event in deltas for entry in event.logprobs] == [entry.token for entry in part.logprobs]
    assert client.responses.create(**ASKED | {"include": []}).output[-1].content[0].logprobs == []


def test_a_token_with_a_bias_of_minus_100_stays_away(client):
    content = client.chat.completions.create(**SUM, logprobs=True).choices[0]
    first = content.logprobs.content[0].token
    (number,) = Tokenizer.load(models_dir() / "tiny" / "tokenizer.bin").encode(first)
    without = client.chat.completions.create(**SUM, logit_bias={str(number): -100}, max_tokens=60).choices[0]
    said = (without.message.content or "") + (without.message.reasoning_content or "")
    assert said
    assert first not in said


def test_penalties_reach_the_engine(scripted, openai_at):
    with scripted(ANSWER) as there:
        openai_at(there).chat.completions.create(**SUM, frequency_penalty=-2, presence_penalty=1.5)
        sampling = there.rows.asked[0].sampling
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-2.0, 1.5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**SUM | fields)
    assert caught.value.param == param


def test_a_bias_of_an_id_that_does_not_exist_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="outside the vocabulary"):
        client.chat.completions.create(**SUM, logit_bias={"99999999": 1})
