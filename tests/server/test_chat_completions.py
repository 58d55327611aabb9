"""OpenAI's client holds chats with the server, and cannot tell it from OpenAI's."""

import openai
import pytest

from tests.server.said import ANSWER, CHAT_TOOL, NEXT, SAID, THOUGHT, calling

SUM = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0}
ASK = {"model": "any", "messages": [{"role": "user", "content": "Weather in Paris?"}]}


def test_a_sum_is_answered_whole(client):
    done = client.chat.completions.create(**SUM)
    (choice,) = done.choices
    assert "42" in choice.message.content
    assert choice.finish_reason == "stop"
    assert choice.message.reasoning_content
    assert done.model == "tiny"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert 0 < done.usage.completion_tokens_details.reasoning_tokens < done.usage.completion_tokens


def test_a_stream_adds_up_to_the_whole_answer(client):
    whole = client.chat.completions.create(**SUM)
    chunks = list(client.chat.completions.create(**SUM, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    thought = "".join(chunk.choices[0].delta.model_extra.get("reasoning", "") for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert thought == whole.choices[0].message.reasoning
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_client_s_own_stream_helper_reads_it(client):
    with client.chat.completions.stream(**SUM) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[-1] == "content.done"
    assert "42" in final.choices[0].message.content


def test_the_same_question_again_is_not_read_again(client):
    messages = [{"role": "user", "content": "What is 77 + 11?"}]
    first = client.chat.completions.create(model="m", messages=messages, temperature=0)
    again = client.chat.completions.create(model="m", messages=messages, temperature=0)
    assert again.choices[0].message.content == first.choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 8


def test_several_replies_to_one_question(client):
    drawn = {**SUM, "temperature": 1.0, "n": 3, "max_tokens": 5}
    done = client.chat.completions.create(**drawn, seed=5)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert done.usage.completion_tokens == 15
    assert [choice.finish_reason for choice in done.choices] == ["length"] * 3
    again = client.chat.completions.create(**drawn, seed=5)
    assert [choice.message for choice in again.choices] == [choice.message for choice in done.choices]
    chunks = list(client.chat.completions.create(**drawn, stream=True))
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}


def test_a_stop_string_ends_the_answer(client):
    whole = client.chat.completions.create(**SUM).choices[0].message.content
    done = client.chat.completions.create(**SUM, stop=["="])
    assert done.choices[0].message.content == whole[: whole.index("=")]
    assert done.choices[0].finish_reason == "stop"


def test_an_effort_of_other_models_is_mapped_and_the_client_is_told(client):
    response = client.chat.completions.with_raw_response.create(**SUM, reasoning_effort="minimal")
    assert "reasoning_effort 'minimal'" in response.headers["warning"]
    low = client.chat.completions.create(**SUM, reasoning_effort="low")
    assert response.parse().choices[0].message.content == low.choices[0].message.content
    named = client.chat.completions.create(**SUM, extra_body={"chat_template_kwargs": {"reasoning_effort": "low"}})
    assert named.usage.prompt_tokens == low.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
            "response_format",
        ),
        ({"tools": [CHAT_TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**SUM | fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(client):
    with pytest.raises(openai.BadRequestError, match=r"[\d,]+ tokens.*context holds [\d,]+") as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "word " * 200_000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_tool_loop(scripted, openai_at):
    with scripted([*THOUGHT, *NEXT, *SAID, *NEXT, *calling()], [*THOUGHT, *NEXT, *ANSWER]) as there:
        client = openai_at(there)
        first = client.chat.completions.create(**ASK, tools=[CHAT_TOOL])
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        assert message.content == "A look."
        (call,) = message.tool_calls
        assert (call.function.name, call.function.arguments) == ("f", '{"city":"Paris"}')
        result = {"role": "tool", "tool_call_id": call.id, "content": "wet"}
        messages = [*ASK["messages"], message.to_dict(), result]
        second = client.chat.completions.create(model="any", messages=messages, tools=[CHAT_TOOL])
        assert second.choices[0].message.content == "It is 4."
        before, after = (row.prompt for row in there.rows.asked)
        assert after[: len(before) - 2] == before[:-2]


def test_calls_stream_in_pieces_with_their_id_once(scripted, openai_at):
    two = [*calling(ending=NEXT[0]), *NEXT[1:], *calling(arguments='{"city":"Rome"}')]
    with scripted(two, two) as there:
        client = openai_at(there)
        pieces = [
            piece
            for chunk in client.chat.completions.create(**ASK, tools=[CHAT_TOOL], stream=True)
            for piece in chunk.choices[0].delta.tool_calls or []
        ]
        assert [piece.index for piece in pieces if piece.id] == [0, 1]
        assert [piece.function.name for piece in pieces if piece.id] == ["f", "f"]
        assert len(pieces) > 6
        with client.chat.completions.stream(**ASK, tools=[CHAT_TOOL]) as stream:
            calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"city":"Paris"}', '{"city":"Rome"}']
    assert len({call.id for call in calls}) == 2


def test_arguments_that_are_no_json_are_passed_on_as_written(scripted, openai_at):
    with scripted(calling(arguments="{city: Paris")) as there:
        done = openai_at(there).chat.completions.create(**ASK, tools=[CHAT_TOOL])
    assert done.choices[0].message.tool_calls[0].function.arguments == "{city: Paris"


def test_a_call_of_a_tool_that_is_not_offered_names_it_and_is_no_500(scripted, openai_at):
    with scripted(calling("g"), calling("g")) as there:
        client = openai_at(there)
        with pytest.raises(openai.UnprocessableEntityError, match="'g'"):
            client.chat.completions.create(**ASK, tools=[CHAT_TOOL])
        with pytest.raises(openai.APIError, match="'g'"):
            list(client.chat.completions.create(**ASK, tools=[CHAT_TOOL], stream=True))


def test_strict_functions_and_other_tools_are_taken_with_a_warning(scripted, openai_at):
    strict = CHAT_TOOL | {"function": CHAT_TOOL["function"] | {"strict": True}}
    with scripted(calling()) as there:
        tools = [strict, {"type": "custom", "custom": {"name": "patch"}}]
        response = openai_at(there).chat.completions.with_raw_response.create(**ASK, tools=tools)
    warnings = response.headers.get_list("warning")
    assert ["tools[0].function.strict" in warnings[0], "tools[1].type" in warnings[1]] == [True, True]
    assert response.parse().choices[0].message.tool_calls
