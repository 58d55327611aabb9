"""OpenAI's client asks for responses, streams them, continues them and asks for them again."""

import json

import jsonschema
import openai
import pytest
from openai.types.responses import Response

from tests.server.patches import GRAMMAR, PATCH, applied
from tests.server.said import ANSWER, ENDLESS, NEXT, PARAMETERS, SAID, SUM_SCHEMA, THOUGHT, calling, giving

SUM = {"model": "gpt-oss-20b", "input": "What is 12 + 30?", "temperature": 0}
TOOL = {"type": "function", "name": "f", "description": "Weather.", "parameters": PARAMETERS, "strict": False}
ASK = {"model": "any", "input": "Weather in Paris?", "tools": [TOOL]}
PATCH_TOOL = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Use the `apply_patch` tool to edit files. This is a FREEFORM tool, so do not wrap it in JSON.",
    "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
}
WHOLE = [*THOUGHT, *NEXT, *SAID, *NEXT, *calling()]


def kinds(events):
    """The types of events, with several of the same in a row as one."""
    found = [event.type.removeprefix("response.") for event in events]
    return [kind for at, kind in enumerate(found) if at == 0 or found[at - 1] != kind]


def test_a_sum_is_answered_and_can_be_asked_for_again(client):
    done = client.responses.create(**SUM)
    assert "42" in done.output_text
    assert done.status == "completed"
    assert [item.type for item in done.output] == ["reasoning", "message"]
    assert client.responses.retrieve(done.id).output == done.output
    client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(done.id)


def test_a_response_that_is_not_to_be_stored_is_not(client):
    done = client.responses.create(**SUM, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)


def test_a_stream_has_every_event_in_its_place_and_ends_with_the_whole(client):
    whole = client.responses.create(**SUM)
    events = list(client.responses.create(**SUM, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    thought = ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"]
    answer = ["output_item.added", "content_part.added", "output_text.delta", "output_text.done"]
    item = ["content_part.done", "output_item.done"]
    assert kinds(events) == ["created", "in_progress", *thought, *item, *answer, *item, "completed"]
    final = events[-1].response
    assert final.output_text == whole.output_text
    assert list(final.output) == [event.item for event in events if event.type.endswith("item.done")]
    assert final.usage == whole.usage.model_copy(update={"input_tokens_details": final.usage.input_tokens_details})


def test_the_client_s_own_stream_helper_reads_it(client):
    with client.responses.stream(**SUM) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text
    assert "42" in text


def test_a_wanted_summary_is_the_thought_and_can_be_sent_back_sealed(client):
    asked = {**SUM, "reasoning": {"summary": "auto", "effort": "low"}, "include": ["reasoning.encrypted_content"]}
    events = list(client.responses.create(**asked, stream=True, store=False))
    assert kinds(events)[3:7] == [
        *("reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done"),
    ]
    thought, answer = events[-1].response.output
    assert thought.summary[0].text
    assert thought.encrypted_content
    sent = [{"role": "user", "content": SUM["input"]}, thought.to_dict(), answer.to_dict()]
    done = client.responses.create(**asked | {"input": [*sent, {"role": "user", "content": "What is 2 + 2?"}]})
    assert "4" in done.output_text


def test_a_previous_response_is_continued_where_it_ended(client):
    first = client.responses.create(**SUM)
    second = client.responses.create(**SUM | {"input": "and plus 10?"}, previous_response_id=first.id)
    assert "52" in second.output_text
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens - 5
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**SUM, previous_response_id="resp_none")
    assert caught.value.param == "previous_response_id"


def test_input_items_are_listed_page_by_page(client):
    texts = ["One.", "Two.", "What is 3 + 4?"]
    done = client.responses.create(**SUM | {"input": [{"role": "user", "content": text} for text in texts]})
    listed = [item.content for item in client.responses.input_items.list(done.id, limit=2)]
    assert listed == texts[::-1]
    assert [item.content for item in client.responses.input_items.list(done.id, order="asc")] == texts


def test_a_limit_makes_it_incomplete(client):
    events = list(client.responses.create(**SUM, stream=True, max_output_tokens=5))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"
    assert client.responses.create(**SUM, max_output_tokens=5).status == "incomplete"


def test_how_lm_studio_is_asked_for_a_model_is_answered(server):
    assert server.get("/v1/models").json()["data"]
    body = {"model": "openai/gpt-oss-20b", "input": "", "max_output_tokens": 1}
    assert server.post("/v1/responses", body).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"background": True}, "background"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**SUM | fields)
    assert caught.value.param == param


def test_what_codex_sends_is_taken_and_what_is_left_out_is_named(client):
    tools = [PATCH_TOOL, {"type": "web_search"}, {"type": "namespace", "name": "n", "tools": []}]
    tools.append(TOOL | {"name": "g", "strict": None, "parameters": PARAMETERS | {"not": {"type": "null"}}})
    fields = {"tools": tools, "parallel_tool_calls": True, "prompt_cache_key": "k", "tool_choice": "auto"}
    extra = {"client_metadata": {"a": "b"}}
    response = client.responses.with_raw_response.create(
        **SUM, **fields, extra_body=extra, reasoning={"effort": "none"}, include=["reasoning.encrypted_content"]
    )
    warnings = "\n".join(response.headers.get_list("warning"))
    for field in ("tools[1].type", "tools[2].type", "tools[3].parameters: not", "reasoning.effort"):
        assert field in warnings
    assert response.parse().status == "completed"


def test_a_tool_loop_whole_and_streamed(scripted, openai_at):
    """The second request sends all back, the third names the response before it: the model reads the same."""
    with scripted(WHOLE, [*THOUGHT, *NEXT, *ANSWER], [*THOUGHT, *NEXT, *ANSWER]) as there:
        client = openai_at(there)
        with client.responses.stream(**ASK) as stream:
            first = stream.get_final_response()
        assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
        assert first.output[1].phase == "commentary"
        call = first.output[2]
        assert (call.name, call.arguments) == ("f", '{"city":"Paris"}')
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}
        said = [{"role": "user", "content": ASK["input"]}, *(item.to_dict() for item in first.output), result]
        second = client.responses.create(**ASK | {"input": said})
        third = client.responses.create(**ASK | {"input": [result]}, previous_response_id=first.id)
        prompts = [row.prompt for row in there.rows.asked]
    assert second.output_text == third.output_text == "It is 4."
    assert prompts[2][: len(prompts[0])] == prompts[0]
    assert prompts[1][: len(prompts[0])] == prompts[0]


def test_two_thoughts_around_something_said_are_items_of_their_own(scripted, openai_at):
    reply = [*THOUGHT, *NEXT, *SAID, *NEXT, *THOUGHT, *NEXT, *ANSWER]
    with scripted(reply, reply) as there:
        whole = openai_at(there).responses.create(**ASK)
        events = list(openai_at(there).responses.create(**ASK, stream=True))
    assert [item.type for item in whole.output] == ["reasoning", "message", "reasoning", "message"]
    assert [item.content[0].text for item in whole.output] == ["Let me see.", "A look.", "Let me see.", "It is 4."]
    texts = [item.content[0].text for item in events[-1].response.output]
    assert texts == [item.content[0].text for item in whole.output]


def test_arguments_that_are_no_json_are_passed_on_as_written(scripted, openai_at):
    with scripted(calling(arguments="{city: Paris")) as there:
        (call,) = openai_at(there).responses.create(**ASK).output
    assert (call.arguments, call.status) == ("{city: Paris", "completed")


def test_a_call_of_a_tool_that_is_not_offered_fails_and_names_it(scripted, openai_at):
    with scripted(calling("g"), calling("g")) as there:
        whole = openai_at(there).responses.create(**ASK)
        events = list(openai_at(there).responses.create(**ASK, stream=True))
    assert whole.status == "failed"
    assert "'g'" in whole.error.message
    assert events[-1].type == "response.failed"
    assert "'g'" in events[-1].response.error.message
    assert isinstance(events[-1].response, Response)


def test_an_answer_is_held_to_its_schema_and_a_call_to_its_grammar(client):
    hot = SUM | {"temperature": 1.5, "max_output_tokens": 300, "extra_body": {"reasoning": {"max_tokens": 20}}}
    format = {"type": "json_schema", "name": "sum", "strict": True, "schema": SUM_SCHEMA}
    done = client.responses.create(**hot, text={"format": format})
    assert done.status == "completed"
    jsonschema.validate(json.loads(done.output_text), SUM_SCHEMA)
    called = client.responses.create(**hot, tools=[PATCH_TOOL], tool_choice={"type": "custom", "name": "apply_patch"})
    last = called.output[-1]
    if called.status == "completed":  # random lines may go on to the limit
        assert last.type == "custom_tool_call"
        assert last.input.startswith("*** Begin Patch\n*** ")


def test_codex_s_apply_patch_is_called_with_a_patch_that_applies(scripted, openai_at):
    """Whole and streamed, and the result goes back under the call's id."""
    call = [*THOUGHT, *NEXT, *giving("apply_patch", PATCH)]
    with scripted(call, call, [*THOUGHT, *NEXT, *ANSWER]) as there:
        client = openai_at(there)
        asked = ASK | {"tools": [PATCH_TOOL, TOOL], "parallel_tool_calls": False}
        whole = client.responses.create(**asked)
        events = list(client.responses.create(**asked, stream=True))
        final = events[-1].response
        assert [item.type for item in whole.output] == [item.type for item in final.output]
        given = final.output[-1]
        assert (given.type, given.name, given.input) == ("custom_tool_call", "apply_patch", PATCH)
        assert whole.output[-1].input == PATCH
        deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
        assert "".join(deltas) == PATCH
        assert [event.input for event in events if event.type == "response.custom_tool_call_input.done"] == [PATCH]
        files = {"sums.py": "def add(a, b):\n    return a - b\n", "old.py": "x = 1\n"}
        assert applied(given.input, files) == {
            "sums.py": "def add(a, b):\n    return a + b\n",
            "new.txt": "one\n\n",
        }
        result = {"type": "custom_tool_call_output", "call_id": given.call_id, "output": "Done!"}
        said = [{"role": "user", "content": ASK["input"]}, *(item.to_dict() for item in final.output), result]
        done = client.responses.create(**asked | {"input": said})
        assert done.output_text == "It is 4."
        prompt = there.tokenizer.decode(there.rows.asked[-1].prompt, markers=True)
    assert f"to=functions.apply_patch<|channel|>commentary<|message|>{PATCH}<|call|>" in prompt
    assert "type apply_patch = (_: string) => any;" in prompt


def test_a_running_response_can_be_cancelled(scripted, openai_at):
    with scripted(ENDLESS, pause=0.005) as there:
        client = openai_at(there)
        stream = client.responses.create(**ASK, stream=True)
        id = next(stream).response.id
        cancelled = client.responses.cancel(id)
        events = list(stream)
        assert cancelled.status == events[-1].response.status == "cancelled"
        assert client.responses.retrieve(id).status == "cancelled"
        there.wait_until_idle()
