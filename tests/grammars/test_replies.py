"""The bundled model and a random one write what validates, at temperatures at which they write nothing that does."""

import json

import jsonschema
import pydantic
import pytest

import gptoss_mlx
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.batching import Batch
from gptoss_mlx.engine.stepping import Failed, Row
from gptoss_mlx.errors import ConstraintError, GrammarError
from gptoss_mlx.events import Done, Text, ToolCall
from gptoss_mlx.grammars import from_regex, from_schema
from gptoss_mlx.sampling import Sampling
from tests.support import scripted
from tests.support.harmony_streams import CHANNEL, MESSAGE, RETURN, encode

SCHEMA = {
    "type": "object",
    "properties": {
        "sum": {"type": "integer", "minimum": 0, "maximum": 999},
        "steps": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
        "sure": {"enum": ["yes", "no"]},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    },
    "required": ["sum", "sure", "share"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tiny():
    return gptoss_mlx.load("tiny")


@pytest.mark.parametrize("temperature", [0, 2])
def test_the_bundled_model_writes_what_validates(tiny, temperature):
    prompt = tiny.tokenizer.encode("What is 12 + 30?")
    grammar = from_schema(SCHEMA)
    ended = 0
    for seed in range(4):
        ids = list(tiny.generate(prompt, max_tokens=200, temperature=temperature, seed=seed, constraint=grammar))
        if ids[-1] == tiny.vocabulary.end:
            jsonschema.validate(json.loads(tiny.tokenizer.decode(ids)), SCHEMA)
            ended += 1
    assert ended >= 3


def test_rows_under_schemas_beside_free_ones_are_as_they_are_alone(tiny):
    grammars = [from_schema(SCHEMA), None, from_regex("[a-c]{1,30}[0-9]"), None]
    prompt = tiny.tokenizer.encode("What is 12 + 30?")

    def said(numbers):
        batch = Batch(tiny.model)
        for n in numbers:
            bound = grammars[n] and tiny.vocabulary.constraint(grammars[n])
            sampling = Sampling(1.5, seed=n)
            batch.add(Row(n, [*prompt, n], tiny.context(), 40, sampling, frozenset(), constraint=bound))
        out = {n: [] for n in numbers}
        while batch.busy:
            for one in batch.step():
                assert not isinstance(one, Failed)
                out[one.id].append(one.token)
        return out

    assert said(range(4)) == {n: said([n])[n] for n in range(4)}


def test_a_reply_that_is_cancelled_leaves_a_context_that_goes_on(tiny):
    prompt = tiny.tokenizer.encode("What is 12 + 30?")
    grammar = from_schema(SCHEMA)
    whole = list(tiny.generate(prompt, max_tokens=60, seed=1, constraint=grammar))
    reply = tiny.generate(prompt, max_tokens=60, seed=1, constraint=grammar)
    begun = [next(reply) for _ in range(5)]
    reply.close()
    assert begun == whole[:5]


def test_a_grammar_that_takes_too_much_work_ends_in_an_error_of_its_row(tiny):
    grammar = from_regex("(a|b|ab){1,2000}(?:(a|b){900}|(ba){900}){1,50}x")
    prompt = tiny.tokenizer.encode("What is 12 + 30?")
    try:
        ids = list(tiny.generate(prompt, max_tokens=20, seed=1, constraint=grammar))
    except ConstraintError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert set(tiny.tokenizer.decode(ids)) <= set("ab")


class Sum(pydantic.BaseModel):
    sum: int = pydantic.Field(ge=0, le=999)
    sure: bool


@pytest.mark.parametrize("schema", [SCHEMA, Sum, from_regex("[0-9]{1,3} (yes|no)")], ids=["schema", "model", "regex"])
def test_a_conversation_s_answers_are_held_to_its_schema_and_its_thoughts_to_their_budget(tiny, schema):
    hot = tiny.sampling(temperature=1.5, seed=4)
    talk = Conversation(tiny, schema=schema, think_tokens=20, sampling=hot, max_tokens=300)
    for question in ("What is 12 + 30?", "and plus 10?"):
        events = list(talk.send(question))
        answer = "".join(event.text for event in events if isinstance(event, Text))
        done = events[-1]
        assert (done.reason, done.invalid, done.repairs) == ("stop", None, {})
        assert done.usage.thought_tokens <= 30
        if schema is SCHEMA:
            jsonschema.validate(json.loads(answer), SCHEMA)
        elif schema is Sum:
            Sum.model_validate_json(answer)
        else:
            assert answer.split()[1] in ("yes", "no")
    assert ("# Response Formats" in tiny.tokenizer.decode(talk.next_prompt())) == (schema in (SCHEMA, Sum))


def test_a_conversation_calls_only_its_functions_and_strict_ones_as_declared(tiny):
    """The bundled model was trained to call ``calculate``, with another argument than this schema allows."""
    digits = {"type": "object", "properties": {"expression": {"type": "string", "pattern": "^[0-9]{1,3}$"}}}
    digits["required"] = ["expression"]
    strict = {"name": "calculate", "description": "Evaluates.", "strict": True, "parameters": digits}
    loose = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
    called = []
    for seed in range(3):
        hot = tiny.sampling(temperature=1.2, seed=seed)
        talk = Conversation(tiny, functions=[strict, loose], sampling=hot, max_tokens=300, think_tokens=40)
        for event in talk.send("What is 12 * 34?"):
            if isinstance(event, ToolCall):
                called.append(event.name)
                if event.name == "calculate":
                    jsonschema.validate(event.arguments, digits)
            elif isinstance(event, Done):
                assert event.repairs == {}
    assert "calculate" in called
    assert {*called} <= {"calculate", "look"}


def test_what_cannot_be_enforced_is_said_when_a_conversation_begins(tiny):
    with pytest.raises(GrammarError, match="#/properties/a: not"):
        Conversation(tiny, schema={"properties": {"a": {"not": {}}}})
    with pytest.raises(GrammarError, match="is no schema"):
        Conversation(tiny, schema=5)


def test_an_answer_that_was_cut_off_or_has_a_name_twice_says_so(tokenizer):
    def said(text, **options):
        ids = encode([CHANNEL, "final", MESSAGE, *text], tokenizer.special, tokenizer.encode)
        with scripted.conversation(tokenizer, ids, schema={"type": "object"}, **options) as talk:
            return list(talk.send("hi"))[-1]

    assert said(['{"a": 1}', RETURN]).invalid is None
    assert "'a' twice" in said(['{"a": 1, "a": 2}', RETURN]).invalid
    assert said(['{"a": 1, "b": 2}', RETURN], max_tokens=8).reason == "length"
    assert said(["[1, " * 300]).reason == "repetition"
    assert said(["[1, " * 300], repeat_guard=False).reason == "length"
