"""Read replies, and write them in the shapes that OpenAI's client reads."""

import pytest
from openai import types

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.requests import Defaults, ReplyReader, chat_completions, responses
from gptoss_mlx.sampling import Sampling

THOUGHT = [["<|channel|>"], "analysis", ["<|message|>"], "Let me see.", ["<|end|>"], ["<|start|>"], "assistant"]
SAID = [["<|channel|>"], "commentary", ["<|message|>"], "A look.", ["<|end|>"], ["<|start|>"], "assistant"]
ANSWER = [["<|channel|>"], "final", ["<|message|>"], "It is 4. Or 5.", ["<|return|>"]]
CALL = [["<|channel|>"], "commentary to=functions.f ", ["<|constrain|>"], "json", ["<|message|>"], '{"a":"<|call|>"}']
CALL += [["<|call|>"]]
ABOUT = {"id": "abc", "created": 1700000000, "model": "tiny"}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture
def read(tokenizer):
    """Feed a reply until the reader is over. Return the reply, and how many ids were not fed."""

    def read(*pieces, ended="stop", stop=(), leave=0):
        ids = [
            id
            for piece in pieces
            for id in ([tokenizer.special[piece[0]]] if isinstance(piece, list) else tokenizer.encode(piece))
        ]
        ids = ids[: len(ids) - leave]
        reader = ReplyReader(tokenizer, 10, stop)
        for number, id in enumerate(ids):
            reader.feed(id)
            if reader.over:
                return reader.finish("stop"), len(ids) - number - 1
        return reader.finish(ended), 0

    return read


def test_thought_answer_and_counts(read):
    reply, _ = read(*THOUGHT, *ANSWER)
    assert (reply.thought, reply.content, reply.reason) == ("Let me see.", "It is 4. Or 5.", "stop")
    assert reply.thought_tokens == 5  # the text's four and the marker that begins it
    assert reply.completion_tokens > reply.thought_tokens
    assert not reply.cut_in_thought


def test_a_call_and_what_is_said_before_it(read):
    reply, _ = read(*THOUGHT, *SAID, *CALL)
    assert reply.reason == "tool_calls"
    assert reply.content == "A look."
    assert [(call.name, call.arguments) for call in reply.calls] == [("f", '{"a":"<|call|>"}')]


def test_cut_off_in_the_thought_is_no_answer_and_a_call_cut_off_is_no_call(read):
    reply, _ = read(*THOUGHT, ended="length", leave=4)
    assert reply.cut_in_thought
    assert reply.thought
    reply, _ = read(*CALL, ended="length", leave=2)
    assert reply.calls == ()
    assert reply.reason == "length"


@pytest.mark.parametrize(
    ("stop", "text"), [(("4",), "It is "), ((" Or", "5"), "It is 4."), (("is 4. O",), "It "), (("6",), None)]
)
def test_a_stop_string_ends_the_answer_before_it_and_never_looks_at_the_thought(read, stop, text):
    reply, left = read(*THOUGHT, *ANSWER, stop=(*stop, "see"))
    assert reply.content == ("It is 4. Or 5." if text is None else text)
    assert reply.reason == "stop"
    assert (left > 0) == (text is not None)


def test_a_model_that_speaks_for_the_user_is_over(read):
    reply, left = read(*ANSWER[:-1], ["<|end|>"], ["<|start|>"], "user", ["<|message|>"], "And I say", ["<|end|>"])
    assert reply.content == "It is 4. Or 5."
    assert reply.reason == "stop"
    assert left


SHAPES = {
    "answer": ((*THOUGHT, *ANSWER), "stop", 0),
    "call": ((*THOUGHT, *SAID, *CALL), "stop", 0),
    "cut off": ((*THOUGHT, *ANSWER), "length", 3),
    "cut in thought": (THOUGHT, "length", 4),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("thought", [True, False])
def test_openais_client_reads_what_we_write(read, shape, thought):
    pieces, ended, leave = SHAPES[shape]
    reply, _ = read(*pieces, ended=ended, leave=leave)
    body = chat_completions.write(reply, **ABOUT, thought=thought)
    completion = types.chat.ChatCompletion.model_validate(body, strict=True)
    choice = completion.choices[0]
    assert (choice.message.content or "") == reply.content
    assert choice.finish_reason == reply.reason
    assert getattr(choice.message, "reasoning", None) == (reply.thought if thought else None)
    assert [call.function.arguments for call in choice.message.tool_calls or []] == [c.arguments for c in reply.calls]
    assert completion.usage.completion_tokens_details.reasoning_tokens == reply.thought_tokens

    tool = {"type": "function", "name": "f", "parameters": {}, "strict": False}
    request = responses.read({"input": "Hi", "tools": [tool]}, Defaults(Sampling()))
    body = responses.write(reply, request.repeated, **ABOUT, thought=thought)
    response = types.responses.Response.model_validate(body, strict=True)
    assert response.output_text == reply.preamble + reply.text
    assert response.status == ("incomplete" if reply.reason == "length" else "completed")
    assert [item.arguments for item in response.output if item.type == "function_call"] == [
        call.arguments for call in reply.calls
    ]
    thoughts = [part.text for item in response.output if item.type == "reasoning" for part in item.content]
    assert thoughts == ([reply.thought] if thought else [])
