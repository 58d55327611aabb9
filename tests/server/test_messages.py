"""Anthropic's client holds chats with the server, and cannot tell it from Anthropic's."""

import json

import anthropic
import httpx2
import jsonschema
import pytest

from tests.server.said import ANSWER, NEXT, PARAMETERS, SAID, SUM_SCHEMA, THOUGHT, calling

SUM = {
    "model": "claude-sonnet-5",
    "max_tokens": 500,
    "extra_body": {"temperature": 0},  # the client has no argument for it any more
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is 12 + 30?"}]}],
}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
TOOL = {"name": "f", "description": "Weather.", "input_schema": PARAMETERS}
ASK = {"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "Weather?"}], "tools": [TOOL], **THINK}
WHOLE = [*THOUGHT, *NEXT, *SAID, *NEXT, *calling()]


def test_a_sum_is_answered_with_its_thought_only_where_that_is_asked_for(claude):
    plain = claude.messages.create(**SUM)
    assert [block.type for block in plain.content] == ["text"]
    assert "42" in plain.content[0].text
    assert plain.stop_reason == "end_turn"
    thought = claude.messages.create(**SUM, **THINK)
    assert [block.type for block in thought.content] == ["thinking", "text"]
    assert thought.content[0].thinking
    assert thought.content[1].text == plain.content[0].text
    usage = thought.usage
    assert (
        usage.input_tokens + usage.cache_read_input_tokens
        == claude.messages.count_tokens(**{key: SUM[key] for key in ("model", "system", "messages")}).input_tokens
    )


def test_a_stream_adds_up_to_the_whole_message(claude):
    whole = claude.messages.create(**SUM, **THINK)
    with claude.messages.stream(**SUM, **THINK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


def test_the_raw_events_are_in_order(claude):
    kinds = [event.type for event in claude.messages.create(**SUM, **THINK, stream=True)]
    once = [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    # The client leaves out pings.
    assert [kind for kind in once if kind != "ping"] == [
        "message_start",
        *block,
        *block,
        "message_delta",
        "message_stop",
    ]


def test_a_stop_sequence_ends_the_message_and_is_named(claude):
    done = claude.messages.create(**SUM, stop_sequences=["="])
    assert (done.stop_reason, done.stop_sequence) == ("stop_sequence", "=")
    assert "=" not in done.content[0].text
    assert claude.messages.create(**SUM | {"max_tokens": 3}).stop_reason == "max_tokens"


def test_what_claude_code_sends_is_taken_and_what_is_left_out_is_named(claude, server):
    unknown = {"context_management": {"edits": []}, "output_config": {"effort": "max"}, "new_field": 1}
    body = SUM | {"extra_body": SUM["extra_body"] | unknown}
    tools = [TOOL | {"cache_control": {"type": "ephemeral"}}, {"type": "web_search_20250305", "name": "web_search"}]
    response = claude.messages.with_raw_response.create(
        **body, thinking={"type": "adaptive"}, tools=tools, metadata={"user_id": "u"}
    )
    warnings = "\n".join(response.headers.get_list("warning"))
    for field in ("context_management", "new_field", "tools[1].type", "output_config.effort 'max'"):
        assert field in warnings
    assert response.parse().stop_reason in ("end_turn", "tool_use")
    for path in ("/", "/v1/messages"):
        assert httpx2.head(server.url + path).status_code == 200


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages is empty"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice: the tool 'g' is not offered"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"if": {}}}}},
            "output_config.format.schema: if cannot be enforced",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image' is not supported"),
        ({"max_tokens": -1}, "max_tokens is -1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(claude, fields, words):
    body = {**SUM, **fields}
    del body["extra_body"]
    with pytest.raises(anthropic.BadRequestError, match="invalid_request_error") as caught:
        claude.post("/v1/messages", body=body, cast_to=object)
    assert words in str(caught.value)


def test_answers_and_calls_are_held_to_what_is_asked(claude):
    hot = SUM | {"extra_body": {"temperature": 1.5}, "thinking": {"type": "enabled", "budget_tokens": 20}}
    output = {"output_config": {"format": {"type": "json_schema", "schema": SUM_SCHEMA}}}
    done = claude.messages.create(**hot | {"extra_body": hot["extra_body"] | output})
    assert done.stop_reason == "end_turn"
    jsonschema.validate(json.loads(done.content[-1].text), SUM_SCHEMA)
    tools = [TOOL | {"strict": True}]
    done = claude.messages.create(**hot, tools=tools, tool_choice={"type": "any"})
    assert done.stop_reason == "tool_use"
    jsonschema.validate(done.content[-1].input, PARAMETERS)


def test_a_tool_loop_whole_and_streamed(scripted, anthropic_at):
    with scripted(WHOLE, WHOLE, [*THOUGHT, *NEXT, *ANSWER]) as there:
        client = anthropic_at(there)
        whole = client.messages.create(**ASK)
        with client.messages.stream(**ASK) as stream:
            streamed = stream.get_final_message()
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
        assert whole.stop_reason == streamed.stop_reason == "tool_use"
        call = streamed.content[2]
        assert (call.name, call.input) == ("f", {"city": "Paris"})
        assert whole.content[2].input == call.input
        result = [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "wet"}]}]
        messages = [*ASK["messages"], {"role": "assistant", "content": streamed.content}]
        done = client.messages.create(**ASK | {"messages": [*messages, {"role": "user", "content": result}]})
        assert done.content[-1].text == "It is 4."
        first, _, last = (row.prompt for row in there.rows.asked)
        text = there.tokenizer.decode(last[len(first) :], markers=True)
    assert text.startswith("<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary")
    assert "<|start|>functions.f to=assistant<|channel|>commentary<|message|>wet<|end|>" in text


def test_arguments_that_are_no_json_are_passed_on_as_written(scripted, anthropic_at):
    reply = calling(arguments="{city: Paris")
    with scripted(reply, reply) as there:
        (call,) = anthropic_at(there).messages.create(**ASK).content
        events = list(anthropic_at(there).messages.create(**ASK, stream=True))
    assert call.input == "{city: Paris"
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    assert "".join(delta.partial_json for delta in deltas) == "{city: Paris"


def test_a_call_of_a_tool_that_is_not_offered_names_it_and_is_no_500(scripted, anthropic_at):
    with scripted(calling("g"), calling("g")) as there:
        with pytest.raises(anthropic.UnprocessableEntityError, match="'g'"):
            anthropic_at(there).messages.create(**ASK)
        with pytest.raises(anthropic.APIStatusError, match="'g'"):
            list(anthropic_at(there).messages.create(**ASK, stream=True))
