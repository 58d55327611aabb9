"""OpenAI's client holds chats with the server, and cannot tell it from OpenAI's."""

import json
import re

import jsonschema
import openai
import pytest

from tests.server.said import ANSWER, CHAT_TOOL, NEXT, PARAMETERS, SAID, SUM_SCHEMA, THOUGHT, calling, giving

SUM = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0}
ASK = {"model": "any", "messages": [{"role": "user", "content": "Weather in Paris?"}]}
HOT = SUM | {"temperature": 1.5, "seed": 3, "max_tokens": 300, "extra_body": {"reasoning": {"max_tokens": 20}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": SUM_SCHEMA}}
ODD = SUM_SCHEMA | {"properties": {"sum": {"not": {}}}}
UNENFORCED = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": ODD}}
STRICT_TOOL = {"type": "function", "function": {"name": "f", "strict": True, "parameters": PARAMETERS}}
TEXT_TOOL = {"type": "custom", "custom": {"name": "t", "format": {"type": "grammar", "grammar": {}}}}
TEXT_TOOL["custom"]["format"]["grammar"] = {"syntax": "regex", "definition": "[a-c]{2,9}!"}


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
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": UNENFORCED}, "response_format.json_schema.schema/properties/sum"),
        ({"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"modalities": ["audio"]}, "modalities"),
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


def test_tools_of_a_vendor_are_taken_with_a_warning(scripted, openai_at):
    with scripted(calling()) as there:
        tools = [CHAT_TOOL, {"type": "web_search"}]
        response = openai_at(there).chat.completions.with_raw_response.create(**ASK, tools=tools)
    (warning,) = response.headers.get_list("warning")
    assert "tools[1].type" in warning
    assert response.parse().choices[0].message.tool_calls


def test_an_answer_is_held_to_its_schema_at_any_temperature(client):
    whole = client.chat.completions.create(**HOT, n=4, response_format=FORMAT)
    for choice in whole.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), SUM_SCHEMA)
    chunks = list(client.chat.completions.create(**HOT, response_format=FORMAT, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    for one in client.chat.completions.create(**HOT, n=2, response_format={"type": "json_object"}).choices:
        assert one.finish_reason == "length" or isinstance(json.loads(one.message.content), dict)
    cut = client.chat.completions.create(**HOT | {"max_tokens": 24}, response_format=FORMAT)
    assert cut.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"f", "t"}),
        ({"type": "function", "function": {"name": "f"}}, {"f"}),
        ({"type": "custom", "custom": {"name": "t"}}, {"t"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"name": "t"}]}}, {"t"}),
        ("none", set()),
    ],
)
def test_a_choice_of_tools_is_honoured(client, choice, names):
    done = client.chat.completions.create(**HOT, n=4, tools=[STRICT_TOOL, TEXT_TOOL], tool_choice=choice)
    calls = [call for one in done.choices for call in one.message.tool_calls or []]
    assert {getattr(call, call.type).name for call in calls} <= names
    assert bool(names) == bool(calls)
    for call in calls:
        if call.type == "custom":
            assert re.fullmatch("[a-c]{2,9}!", call.custom.input)
        else:
            jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)


def test_a_tool_that_takes_text_is_given_it_and_answers(scripted, openai_at):
    with scripted(*[giving("t", "ab\n!")] * 2, giving("t", " "), [*THOUGHT, *NEXT, *ANSWER]) as there:
        client = openai_at(there)
        asked = ASK | {"tools": [TEXT_TOOL, CHAT_TOOL]}
        message = client.chat.completions.create(**asked).choices[0].message
        (call,) = message.tool_calls
        assert (call.type, call.custom.name, call.custom.input) == ("custom", "t", "ab\n!")
        chunks = client.chat.completions.create(**asked, stream=True)
        pieces = [piece.model_dump() for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
        assert "".join(piece["custom"]["input"] for piece in pieces) == "ab\n!"
        assert [piece["type"] for piece in pieces if piece["type"]] == ["custom"]
        blank = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
        assert blank.custom.input == " "
        result = {"role": "tool", "tool_call_id": call.id, "content": "wet"}
        done = client.chat.completions.create(**asked | {"messages": [*ASK["messages"], message.to_dict(), result]})
        assert done.choices[0].message.content == "It is 4."
        prompt = there.tokenizer.decode(there.rows.asked[-1].prompt, markers=True)
    assert "type t = (_: string) => any;" in prompt
    assert "// It follows this regex:\n// [a-c]{2,9}!\n" in prompt
    assert " to=functions.t<|channel|>commentary<|message|>ab\n!<|call|>" in prompt


def test_a_property_that_comes_twice_is_an_error_and_no_answer(scripted, openai_at):
    twice = [*ANSWER[:3], '{"a": 1, "a": 2}', ANSWER[-1]]
    with scripted(twice, twice) as there:
        client = openai_at(there)
        with pytest.raises(openai.UnprocessableEntityError, match="'a' twice"):
            client.chat.completions.create(**ASK, response_format={"type": "json_object"})
        assert client.chat.completions.create(**ASK).choices[0].finish_reason == "stop"


def test_a_reply_that_only_repeats_itself_is_ended(scripted, openai_at):
    endless = [*ANSWER[:3], "It is 4. " * 500]
    with scripted(endless, endless) as there:
        done = openai_at(there).chat.completions.create(**ASK)
        assert done.choices[0].finish_reason == "repetition"
        assert done.usage.completion_tokens < 260
        there.service.guarded = False
        assert openai_at(there).chat.completions.create(**ASK).usage.completion_tokens > 1000
