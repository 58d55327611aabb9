"""The bundled model and a random one write what validates, at temperatures at which they write nothing that does."""

import json

import jsonschema
import pytest

import gptoss_mlx
from gptoss_mlx.engine.batching import Batch
from gptoss_mlx.engine.stepping import Failed, Row
from gptoss_mlx.errors import ConstraintError
from gptoss_mlx.grammars import from_regex, from_schema
from gptoss_mlx.sampling import Sampling

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


@pytest.mark.parametrize("temperature", [0, 1, 2])
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
