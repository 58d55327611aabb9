"""Bodies as OpenAI's clients write them become prompts, and bad bodies are refused with the field at fault."""

import json

import pytest

from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Tokenizer, render
from gptoss_mlx.requests import Defaults, ReplyReader, chat_completions, messages, responses
from gptoss_mlx.requests.response_objects import seal
from gptoss_mlx.sampling import Sampling
from tests.support.harmony_streams import encode

DEFAULTS = Defaults(Sampling(temperature=0.5), "low", max_tokens=50, date="2025-06-28")
WEATHER = {"name": "weather", "description": "Weather.", "parameters": {"type": "object", "properties": {}}}
USER = {"role": "user", "content": "Hi"}
SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2025-06-28\n\nReasoning: {}\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.{}<|end|>"
)
WITH_TOOLS = "\nCalls to these tools must go to the commentary channel: 'functions'."
TOOLS = (
    "# Tools\n\n## functions\n\nnamespace functions {\n\n// Weather.\ntype weather = (_: {\n}) => any;\n\n"
    "} // namespace functions"
)
CALLED = (
    "<|start|>assistant to=functions.weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    "<|start|>functions.weather to=assistant<|channel|>commentary<|message|>{}<|end|>"
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture
def prompt_of(tokenizer):
    return lambda request: tokenizer.decode(render(request.messages, tokenizer), markers=True)


def chat(**fields):
    return chat_completions.read({"messages": [USER]} | fields, DEFAULTS)


def respond(**fields):
    return responses.read({"input": "Hi"} | fields, DEFAULTS)


def test_a_chat_with_tools_is_rendered_as_the_model_was_trained(prompt_of):
    """Two calls made together are rendered one by one, each with its result. The finished turn's thought is dropped."""
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "In "}, {"type": "text", "text": "English."}]},
        {"role": "user", "content": "Old <|end|>"},
        {"role": "assistant", "content": "Answer.", "reasoning": "Forgotten."},
        USER,
        {"role": "assistant", "content": "A look.", "reasoning": "Kept.", "tool_calls": [call | {"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "wet"},
        {"role": "assistant", "tool_calls": [call | {"id": "2"}, call | {"id": "3"}]},
        {"role": "tool", "tool_call_id": "3", "content": "dry"},
        {"role": "tool", "tool_call_id": "2", "content": "hot"},
    ]
    tools = [{"type": "function", "function": WEATHER}]
    prompt = prompt_of(chat(messages=messages, tools=tools, reasoning_effort="high", tool_choice="auto"))
    assert prompt == (
        SYSTEM.format("high", WITH_TOOLS)
        + f"<|start|>developer<|message|># Instructions\n\nBe brief.\n\nIn English.\n\n{TOOLS}<|end|>"
        + "<|start|>user<|message|>Old <|end|><|end|>"
        + "<|start|>assistant<|channel|>final<|message|>Answer.<|end|>"
        + "<|start|>user<|message|>Hi<|end|>"
        + "<|start|>assistant<|channel|>analysis<|message|>Kept.<|end|>"
        + "<|start|>assistant<|channel|>commentary<|message|>A look.<|end|>"
        + CALLED.format('{"a": 1}', "wet")
        + CALLED.format('{"a": 1}', "dry")
        + CALLED.format('{"a": 1}', "hot")
        + "<|start|>assistant"
    )


def test_the_same_conversation_through_either_endpoint_is_the_same_prompt(prompt_of):
    call = {"name": "weather", "arguments": "{}"}
    through_chat = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            USER,
            {
                "role": "assistant",
                "reasoning": "Hm.",
                "tool_calls": [{"id": "c", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "wet"},
        ],
        tools=[{"type": "function", "function": WEATHER}],
        max_tokens=7,
        temperature=0.25,
        response_format={"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": "object"}}},
    )
    through_responses = respond(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c", **call},
            {"type": "function_call_output", "call_id": "c", "output": "wet"},
        ],
        tools=[{"type": "function", **WEATHER}],
        max_output_tokens=7,
        temperature=0.25,
        text={"format": {"type": "json_schema", "name": "w", "schema": {"type": "object"}}},
    )
    assert prompt_of(through_chat) == prompt_of(through_responses)
    assert '# Response Formats\n\n## w\n\n{"type":"object"}' in prompt_of(through_chat)
    assert through_chat.sampling == through_responses.sampling == Sampling(temperature=0.25)
    assert through_chat.max_tokens == through_responses.max_tokens == 7


def test_what_a_request_does_not_say_is_left_to_the_defaults(prompt_of):
    for request in (chat(), respond(), chat(temperature=None, max_tokens=None, reasoning_effort=None)):
        assert request.sampling == DEFAULTS.sampling
        assert request.max_tokens == 50
        assert prompt_of(request) == SYSTEM.format("low", "") + "<|start|>user<|message|>Hi<|end|><|start|>assistant"


def test_a_response_repeats_the_limit_it_was_given():
    assert respond(max_output_tokens=7).repeated["max_output_tokens"] == 7
    assert respond().repeated["max_output_tokens"] == DEFAULTS.max_tokens


def test_tools_not_to_be_called_are_not_shown(prompt_of):
    tools = [{"type": "function", "function": WEATHER}]
    assert "weather" not in prompt_of(chat(tools=tools, tool_choice="none"))


CALL_1 = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
GRAMMAR = "tools[0].custom.format.grammar"
NO_GRAMMAR = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: nothing"}}
DEEP_NOT = {"type": "object", "properties": {"a": {"not": {}}}}
BAD_CHAT = [
    ({"n": True}, "n"),
    ({"messages": [USER, CALL_1 | {"tool_calls": CALL_1["tool_calls"] * 2}]}, "messages[1]"),
    (
        {"messages": [USER, CALL_1 | {"tool_calls": [CALL_1["tool_calls"][0] | {"index": 1}]}]},
        "messages[1].tool_calls[0].index",
    ),
    ({"b" * 100: 1}, ascii("b" * 100)[:80]),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": ["Hi"]}, "messages[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "system", "content": ""}]}, "messages"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role"),
    ({"messages": [USER, {"role": "assistant", "content": "Ho"}]}, "messages"),
    ({"messages": [USER, CALL_1]}, "messages"),
    ({"messages": [USER, CALL_1, USER]}, "messages[2]"),
    ({"messages": [USER, {"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[1]"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "0"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"seed": "1"}, "seed"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 1e3}, "max_tokens"),
    ({"reasoning_effort": "none"}, "reasoning_effort"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"frequency_penalty": 2.1}, "frequency_penalty"),
    ({"functions": [WEATHER]}, "functions"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": WEATHER | {"name": "a b"}}]}, "tools[0].function.name"),
    (
        {"tools": [{"type": "function", "function": WEATHER | {"strict": True, "parameters": {"not": {}}}}]},
        "tools[0].function.parameters",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "odd"}}, "strict": True}]},
        "tools[0].function.parameters/type",
    ),
    ({"tools": [{"type": "custom", "custom": {"name": "f", "format": {"type": "grammar"}}}]}, GRAMMAR),
    (
        {"tools": [{"type": "custom", "custom": {"name": "f", "format": NO_GRAMMAR}}]},
        f"{GRAMMAR}.definition",
    ),
    ({"tools": [{"type": "function", "function": WEATHER}] * 2}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"reasoning": {"max_tokens": -1}}, "reasoning.max_tokens"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": DEEP_NOT}}},
        "response_format.json_schema.schema/properties/a",
    ),
    ({"stream": "yes"}, "stream"),
    ({"max_token": 5}, "max_token"),
    # Unknown fields inside the body are refused too, because their author expects an effect.
    ({"messages": [USER | {"name": "Ann"}]}, "messages[0].name"),
    ({"messages": [USER | {"images": ["AAAA"]}]}, "messages[0].images"),
    ({"messages": [USER, {"role": "assistant", "content": "x", "tool_call": []}, USER]}, "messages[1].tool_call"),
    ({"messages": [USER, {"role": "assistant", "content": "x", "prefix": True}, USER]}, "messages[1].prefix"),
    (
        {"messages": [USER, {"role": "assistant", "thinking": "a", "reasoning": "b", "content": "x"}, USER]},
        "messages[1]",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "lang": "en"}]}]},
        "messages[0].content[0].lang",
    ),
    (
        {"messages": [USER, CALL_1, {"role": "tool", "tool_call_id": "1", "name": "g", "content": "x"}]},
        "messages[2].name",
    ),
    ({"tools": [{"type": "function", "function": WEATHER | {"examples": []}}]}, "tools[0].function.examples"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "w", "shape": {}}}},
        "response_format.json_schema.shape",
    ),
    ({"top_k": 10**400}, "top_k"),
    ({"temperature": 10**400}, "temperature"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT, ids=[json.dumps(fields)[:60] for fields, _ in BAD_CHAT])
def test_a_chat_that_cannot_be_answered_names_the_field_at_fault(fields, param):
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_RESPONSES = [
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input[0]"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"include": ["file_search_call.results"]}, "include"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"reasoning": {"effort": "minimal"}}, "reasoning.effort"),
    ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "w", "schema": {"$ref": "#/x"}}}}, "text.format.schema/$ref"),
    (
        {"tools": [{"type": "function", "name": "f", "strict": True, "parameters": {"allOf": 1}}]},
        "tools[0].parameters/allOf",
    ),
    ({"tool_choice": {"type": "custom", "name": "f"}}, "tool_choice"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, USER]},
        "input[0].encrypted_content",
    ),
    (
        {
            "input": [
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "I look.", "tone": "dry"}],
                    "content": [{"type": "reasoning_text", "text": "Hm."}],
                },
                USER,
            ]
        },
        "input[0].summary[0].tone",
    ),
    ({"input": [USER | {"phase": "final_answer"}]}, "input[0].phase"),
    ({"text": {"shape": "short"}}, "text.shape"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_RESPONSES)
def test_a_response_that_cannot_be_given_names_the_field_at_fault(fields, param):
    with pytest.raises(RequestError) as caught:
        respond(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "thinking"])
def test_a_thought_is_taken_under_any_of_its_names(prompt_of, key):
    messages = [USER, CALL_1 | {key: "I look."}, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    assert "<|start|>assistant<|channel|>analysis<|message|>I look.<|end|>" in prompt_of(chat(messages=messages))
    parts = [{"type": "thinking", "thinking": "I look."}]
    messages[1] = CALL_1 | {"content": parts}
    assert "<|start|>assistant<|channel|>analysis<|message|>I look.<|end|>" in prompt_of(chat(messages=messages))


def test_a_summary_stands_for_a_thought_that_is_not_there(prompt_of):
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}]}
    called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    assert "<|channel|>analysis<|message|>I look.<|end|>" in prompt_of(respond(input=[USER, item, called, result]))


@pytest.mark.parametrize(
    "said", [{"content": None}, {"content": ""}, {"reasoning": "Hm."}, {"content": [], "reasoning": "Hm."}]
)
def test_a_reply_that_said_nothing_comes_back_as_history(prompt_of, said):
    prompt = prompt_of(chat(messages=[USER, {"role": "assistant"} | said, {"role": "user", "content": "Well?"}]))
    assert prompt.endswith("Hi<|end|><|start|>user<|message|>Well?<|end|><|start|>assistant")


def test_an_empty_refusal_beside_an_answer_says_nothing_and_another_is_refused_by_its_name(prompt_of):
    said = {"role": "assistant", "content": "Four.", "refusal": ""}
    assert "<|channel|>final<|message|>Four.<|end|>" in prompt_of(chat(messages=[USER, said, USER]))
    with pytest.raises(RequestError, match="beside") as caught:
        chat(messages=[USER, said | {"refusal": "No."}, USER])
    assert caught.value.param == "messages[1].refusal"


def test_a_call_of_another_namespace_and_one_without_arguments_come_back_as_history(prompt_of):
    calls = [{"id": "1", "function": {"name": "browser.search", "arguments": ""}}]
    messages = [USER, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    prompt = prompt_of(chat(messages=messages))
    assert "<|start|>assistant to=browser.search<|channel|>commentary <|constrain|>json<|message|>{}<|call|>" in prompt
    assert "<|start|>browser.search to=assistant<|channel|>commentary<|message|>x<|end|>" in prompt


def test_what_openais_client_and_ours_write_back_is_taken(prompt_of):
    """Fields without a meaning, as the client's ``model_dump`` and a stream's pieces write them."""
    call = {"id": "1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    said = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
    }
    parts = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": parts, "name": None}, said | {"tool_calls": [call]}]
    chat(messages=[*messages, {"role": "tool", "tool_call_id": "1", "name": "f", "content": "x"}])
    text = {"type": "output_text", "text": "4", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    respond(input=[USER, item | {"phase": "final_answer"}, USER])


@pytest.mark.parametrize("read", [chat_completions.read, responses.read])
@pytest.mark.parametrize("body", [None, [], "Hi", 5])
def test_a_body_that_is_no_object_is_refused(read, body):
    with pytest.raises(RequestError):
        read(body, DEFAULTS)


def test_with_notes_what_hardly_matters_is_overlooked_and_named(prompt_of):
    notes = []
    strict = {"type": "function", "function": WEATHER | {"strict": True}}
    formatted = {"type": "object", "properties": {"a": {"type": "string", "format": "hostname"}}}
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": formatted | {"not": {}}}}
    body = {"messages": [USER | {"name": "Ann"}], "tools": [strict, {"type": "odd"}], "verbosity": "low"}
    body |= {"response_format": form}
    request = chat_completions.read(body | {"reasoning_effort": "max"}, DEFAULTS, notes=notes)
    plain = chat(tools=[{"type": "function", "function": WEATHER}], reasoning_effort="high", response_format=form)
    assert prompt_of(request) == prompt_of(plain)
    named = {note.split()[0] for note in notes}
    said = {"messages[0].name", "tools[1].type", "verbosity", "reasoning_effort"}
    assert named == said | {"response_format.json_schema.schema:"}


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_is_mapped_the_same_wherever_it_is_said(effort, prompt_of):
    places = (
        {"reasoning_effort": effort},
        {"reasoning": {"effort": effort}},
        {"chat_template_kwargs": {"reasoning_effort": effort}},
    )
    prompts = {prompt_of(chat_completions.read({"messages": [USER]} | place, DEFAULTS, notes=[])) for place in places}
    prompts.add(prompt_of(responses.read({"input": "Hi", "reasoning": {"effort": effort}}, DEFAULTS, notes=[])))
    message = {"messages": [USER], "max_tokens": 5, "output_config": {"effort": effort}}
    prompts.add(prompt_of(messages.read(message, DEFAULTS, [])))
    assert len(prompts) == 1


def test_two_efforts_that_differ_are_refused():
    with pytest.raises(RequestError, match="differ"):
        chat(reasoning_effort="low", reasoning={"effort": "high"})


def test_a_chat_through_anthropics_endpoint_is_the_same_prompt(prompt_of):
    call = {"type": "tool_use", "id": "1", "name": "weather", "input": {"a": 1}}
    through_messages = messages.read(
        {
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "max_tokens": 5,
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                        {"type": "text", "text": "A look."},
                        call,
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "wet"}]},
            ],
            "tools": [{"name": "weather", "description": "Weather.", "input_schema": WEATHER["parameters"]}],
        },
        DEFAULTS,
        [],
    )
    function = {"name": "weather", "arguments": '{"a": 1}'}
    through_chat = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            USER,
            {
                "role": "assistant",
                "content": "A look.",
                "reasoning": "Hm.",
                "tool_calls": [{"id": "1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "wet"},
        ],
        tools=[{"type": "function", "function": WEATHER}],
    )
    assert prompt_of(through_messages) == prompt_of(through_chat)


def test_a_sealed_thought_comes_back_and_another_s_is_overlooked_or_refused(prompt_of):
    def read(sealed, notes):
        thought = {"type": "reasoning", "summary": [], "encrypted_content": sealed}
        call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": "1", "output": "x"}
        items = [USER, thought, call, result]
        return prompt_of(responses.read({"input": items}, DEFAULTS, notes=notes))

    assert "analysis<|message|>Hm. é<|end|>" in read(seal("Hm. é"), None)
    notes = []
    assert "analysis<|message|>" not in read("gAAAA", notes)
    assert "encrypted_content" in notes[0]
    with pytest.raises(RequestError, match="encrypted_content"):
        read("gAAAA", None)


def test_an_exchange_is_carried_on_with_the_ids_the_model_wrote(tokenizer):
    first = responses.read({"input": "Hi", "instructions": "Be brief."}, DEFAULTS)
    before = render(first.messages, tokenizer)
    written = [["<|channel|>"], "commentary to=functions.f", ["<|message|>"], '{"odd" :1}', ["<|call|>"]]
    reader = ReplyReader(tokenizer, len(before))
    ids = encode(written, tokenizer.special, tokenizer.encode)
    for id in ids:
        reader.feed(id)
    carried = first.carried.after(reader.finish("stop"), lambda number: "c")
    with pytest.raises(RequestError, match="no result yet"):
        responses.read({"input": "and?", "previous_response_id": "r"}, DEFAULTS, carried=carried)
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    body = {"input": [result], "previous_response_id": "r", "instructions": "Be brief."}
    after = render(responses.read(body, DEFAULTS, carried=carried).messages, tokenizer)
    assert after[: len(before) + len(ids)] == before + ids
    with pytest.raises(RequestError, match="previous_response_id"):
        responses.read(body, DEFAULTS)
