"""Declared functions become exactly the ids that openai-harmony gives them, for every kind of schema."""

import pytest

from gptoss_mlx.errors import HarmonyError
from gptoss_mlx.harmony import Developer, Function, Message, render_messages
from tests.support.harmony_goldens import read_golden
from tests.support.schemas import CONTINUED, with_bare_lines

GOLDENS = read_golden("signatures.jsonl.xz")


def ids_of(functions, tokenizer, instructions=None):
    return render_messages([Message("developer", Developer(instructions, tuple(functions)))], tokenizer)


def signature(schema, tokenizer):
    text = tokenizer.decode(ids_of([Function("f", "", schema)], tokenizer))
    return text.split("type f = (_: ")[1].split(") => any;")[0]


def object_of(**properties):
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: "")
def test_ids_are_those_of_openai_harmony(golden, published):
    ids = ids_of([Function(**function) for function in golden["functions"]], published, golden["instructions"])
    text = published.decode(ids, markers=True)
    want = published.decode(golden["ids"], markers=True)
    if CONTINUED in want:  # comments of several lines: the one intended difference
        assert with_bare_lines(text) == with_bare_lines(want)
    else:
        assert text == want  # readable before exact
        assert ids == golden["ids"]


def test_goldens_cover_what_they_claim():
    assert len(GOLDENS) >= 250
    assert sum(CONTINUED in str(golden["functions"]) for golden in GOLDENS) < len(GOLDENS) / 5


def test_every_line_of_a_comment_is_a_comment(published):
    """openai-harmony does not comment the second line, so it reads as code."""
    value = {"type": "string", "description": "one\ntwo", "title": "t\r\nu", "examples": ["v\nw"]}
    assert signature(object_of(a=value), published) == (
        '{\n// t\n// u\n//\n// one\n// two\n// Examples:\n// - "v\n// w"\na?: string,\n}'
    )
    variants = {"oneOf": [{"type": "string"}, {"type": "number", "description": "one\r\ntwo", "default": 1}]}
    assert signature(object_of(a=variants), published) == ("{\na?:\n | string\n | number // one two default: 1\n,\n}")


def nested(levels, keyword, inner):
    for _ in range(levels):
        inner = [inner] if keyword is None else {"type": "array", keyword: inner}
    return inner


@pytest.mark.parametrize(
    "value",
    [
        nested(500, "items", {}),
        {"default": nested(5000, None, 1)},
        {"default": {1, 2}},
        {"default": {1: "a"}},
        {"default": float("nan")},
        {"default": [-float("inf")]},
        {"default": 10**400},
        {"default": 10**5000},
    ],
    ids=["deep", "deep default", "set", "whole number as key", "nan", "infinity", "beyond floats", "beyond text"],
)
def test_what_is_no_json_schema_is_refused_in_one_line(value, published):
    with pytest.raises(HarmonyError) as caught:
        signature(object_of(x=value), published)
    assert "function 'f'" in str(caught.value)
    assert "\n" not in str(caught.value)
