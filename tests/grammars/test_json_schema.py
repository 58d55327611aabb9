"""What a schema's grammar allows, jsonschema finds valid; what it cannot hold to is named with its path."""

import contextlib
import json
import time

import jsonschema
import pytest

from gptoss_mlx.errors import GrammarError
from gptoss_mlx.grammars import from_schema, json_object
from gptoss_mlx.grammars.finished import duplicate_name
from tests.grammars.walks import walk

NODE = {
    "type": "object",
    "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["v", "next"],
}
BY_KIND = [
    {"type": "object", "properties": {"kind": {"const": kind}, name: {"type": kinds}}, "required": ["kind", name]}
    for kind, name, kinds in (("a", "v", "integer"), ("b", "w", "null"))
]
SCHEMAS = [
    {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False},
    {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"enum": ["x", "y", 1, None]},
            "c": {"type": "string", "maxLength": 8},
            "d": {"type": "boolean"},
        },
        "required": ["c"],
    },
    {"type": "number"},
    {"type": "number", "minimum": -2.5, "exclusiveMaximum": 3},
    {"type": "number", "exclusiveMinimum": 0.1, "maximum": 0.25},
    {"type": "number", "exclusiveMinimum": -0.001, "exclusiveMaximum": 0},
    {"type": "number", "minimum": 1e-7, "maximum": 1.5e21},
    {"type": "number", "minimum": 5, "exclusiveMinimum": True, "$schema": "http://json-schema.org/draft-04/schema#"},
    {"type": "integer", "minimum": -12, "maximum": 1999999},
    {"type": "integer", "exclusiveMinimum": -0.5, "exclusiveMaximum": 1.5},
    {"type": "integer", "maximum": -1000},
    {"type": "integer", "multipleOf": 5},
    {"type": "integer", "multipleOf": 12500, "minimum": 3},
    {"type": "integer", "multipleOf": 7, "minimum": 3, "maximum": 100},
    {"type": "number", "multipleOf": 50},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": r"^[a-z]+\d{2,3}$", "maxLength": 9},
    {"type": "string", "pattern": "ab|^c$", "maxLength": 9},
    {"type": "string", "pattern": r"^[^\s/\\]{1,5}$"},
    {"type": "string", "pattern": "^(?:x|/y/)$"},
    {"type": "string", "pattern": r"^[^\\/:\s]{2}/[\/\d]+?\/$", "maxLength": 9},
    *({"type": "string", "format": name} for name in ("date", "date-time", "time", "uuid", "ipv4", "ipv6", "duration")),
    {"type": "string", "format": "date", "minLength": 10, "pattern": "^2"},
    {"type": ["string", "null"], "maxLength": 3},
    {"enum": ["a/b", "<|end|>", [1, {"a": 2}], 1.5, 'q"uo\\te\n', True]},
    {"const": {"a": [1, 2.5, None]}},
    {"type": "integer", "enum": [1, "1", 2.5, 3], "maximum": 2},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": False},
    {"type": "array", "uniqueItems": True, "maxItems": 1, "items": {"type": "null"}},
    {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "null"}],
        "items": {"type": "boolean"},
        "minItems": 1,
        "maxItems": 4,
    },
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}, {"type": "null"}],
        "additionalItems": False,
    },
    {"type": "object", "properties": {'a/"b\\': {"type": "null"}, "c": False}, "minProperties": 1},
    {"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}}, "required": ["b"]},
    {"type": "object", "required": ["z"], "additionalProperties": {"type": "null"}, "maxProperties": 1},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2},
    {
        "type": "object",
        "properties": {"xa": {"type": ["integer", "null"]}},
        "patternProperties": {"^x[a-c]$": {"type": "integer"}, "^y[a-c]$": {"type": "null"}, "a$": {"maximum": 5}},
        "additionalProperties": False,
    },
    {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    {"oneOf": BY_KIND},
    {"oneOf": [{"type": "null"}, {"type": "integer", "minimum": 5}, {"type": "string", "maxLength": 2}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}},
            {"required": ["a", "b"], "properties": {"b": {"type": "null"}}},
            {"required": ["b"]},
        ]
    },
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "null"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    {
        "allOf": [
            {"anyOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"type": "null"}}}]},
            {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        ],
        "type": "object",
        "properties": {"b": {"type": "boolean"}},
        "additionalProperties": {"type": "null"},
    },
    {
        "allOf": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}],
        "properties": {"b": {"type": "null"}},
        "unevaluatedProperties": False,
    },
    {"$defs": {"p": {"type": "integer", "minimum": 3}}, "$ref": "#/$defs/p", "maximum": 20, "default": 5},
    {"minLength": 1, "maxLength": 3},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_drawn_is_valid(schema, vocabulary, tokenizer):
    grammar = from_schema(schema)
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    ended = 0
    for seed in range(6):
        ids, complete = walk(vocabulary, grammar, seed)
        text = tokenizer.decode(ids)
        if complete and duplicate_name(text) is None:
            validator.validate(json.loads(text))
            ended += 1
    assert ended >= 3


def test_any_object_is_json(vocabulary, tokenizer):
    ended = 0
    for seed in range(20):
        ids, complete = walk(vocabulary, json_object(), seed, most=40)
        if complete:
            assert isinstance(json.loads(tokenizer.decode(ids)), dict)
            ended += 1
    assert ended > 1


def takes(vocabulary, tokenizer, schema, text):
    """Return whether the grammar of a schema allows a text as a whole."""
    constraint = vocabulary.constraint(from_schema(schema))
    return constraint._matcher.consume_tokens(tokenizer.encode(text)) and constraint.complete


@pytest.mark.parametrize(
    ("schema", "text", "valid"),
    [
        ({"type": "number"}, "-0.5", True),
        ({"type": "number"}, "1e307", True),
        ({"type": "number"}, "1e308", False),
        ({"type": "number"}, "12345678901234567", True),
        ({"type": "number"}, "123456789.012345678", False),
        ({"type": "number", "maximum": 2.5}, "2.5", True),
        ({"type": "number", "maximum": 2.5}, "2.50", True),
        ({"type": "number", "maximum": 2.5}, "2.51", False),
        ({"type": "number", "exclusiveMaximum": 2.5}, "2.5", False),
        ({"type": "number", "exclusiveMaximum": 2.5}, "2.50", False),
        ({"type": "number", "exclusiveMinimum": 0}, "0.0", False),
        ({"type": "number", "minimum": -1}, "-0.99", True),
        ({"type": "number", "minimum": -1}, "-1.01", False),
        ({"type": "integer", "minimum": 17}, "17", True),
        ({"type": "integer", "minimum": 17}, "16", False),
        ({"type": "integer", "minimum": 17}, "107", True),
        ({"type": "string"}, '"é漢🙂 \\" \\\\ \\n"', True),
        ({"type": "string"}, '"\n"', False),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, '{\n    "a": null\n}', True),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, "{}", True),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, '{"b": 1}', False),
        ({"type": "object"}, '{"a": {"b": [1, "x", {}]}, "c": null}', True),
        ({"type": "array", "items": {"type": "integer"}}, "[]", True),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2, 3]", True),
        ({"type": "string", "pattern": "b"}, '"abc"', True),
        ({"type": "string", "pattern": r"^\d$"}, '"٣"', False),
    ],
)
def test_what_is_and_what_is_not_allowed(schema, text, valid, vocabulary, tokenizer):
    assert takes(vocabulary, tokenizer, schema, text) == valid


@pytest.mark.parametrize(
    ("schema", "path", "words"),
    [
        (5, "#", "is no schema"),
        ({"type": "strng"}, "#/type", "is no type"),
        ({"properties": {"a": {"required": "b"}}}, "#/properties/a/required", "must be an array"),
        ({"minLength": -1}, "#/minLength", "whole number"),
        ({"properties": {"a": {"not": {}}}}, "#/properties/a", "not cannot be enforced"),
        ({"items": {"type": "array", "uniqueItems": True}}, "#/items", "uniqueItems"),
        ({"anyOf": [{"type": "null"}, {"if": {}, "then": {}}]}, "#/anyOf/1", "if cannot be enforced"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#", "branches 0 and 1 may both match"),
        ({"type": "string", "pattern": "(?=a)b"}, "#/pattern", "looks ahead"),
        ({"type": "string", "pattern": r"(a)\1"}, "#/pattern", "backreference"),
        ({"type": "string", "pattern": "("}, "#/pattern", "no regex"),
        ({"type": "integer", "multipleOf": 7}, "#/multipleOf", "need a minimum and a maximum"),
        ({"type": "number", "multipleOf": 0.1}, "#/multipleOf", "whole number"),
        ({"$ref": "https://elsewhere.org/x"}, "#/$ref", "outside the schema"),
        ({"$ref": "#/$defs/x"}, "#/$ref", "points to nothing"),
        ({"$ref": "#"}, "#", "never end"),
        ({"allOf": [{"$ref": "#"}]}, "#", "circle"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "#", "never end"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "#", "nothing satisfies"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "#", "nothing satisfies"),
        ({"enum": [1, 2], "type": "string"}, "#", "nothing satisfies"),
        ({"enum": [float("nan")]}, "#", "not JSON"),
    ],
)
def test_what_cannot_be_enforced_is_named_with_its_path(schema, path, words):
    with pytest.raises(GrammarError, match=words) as caught:
        from_schema(schema)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


def test_what_cannot_be_enforced_is_dropped_where_that_is_asked_for(vocabulary, tokenizer):
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True, "items": {"type": "null"}}}}
    grammar = from_schema(schema, lenient=True)
    assert grammar.warnings == ("#/properties/a: uniqueItems cannot be enforced for more than one item; it is dropped",)
    assert (
        grammar.lark == from_schema({**schema, "properties": {"a": {"type": "array", "items": {"type": "null"}}}}).lark
    )


def test_a_format_that_only_annotates_is_ignored_with_a_warning():
    grammar = from_schema({"type": "string", "format": "int32"})
    assert grammar.warnings == ("#/format: 'int32' only annotates; it is ignored",)
    assert grammar.lark == from_schema({"type": "string"}).lark


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "title": "x" * (1 << 20)},
        {"properties": {f"p{n}": {"properties": {f"q{m}": {"type": "null"} for m in range(30)}} for n in range(2000)}},
        {"type": "string", "pattern": "^((a|b)*c)+(d|e){2,900}$"},
        {"type": "string", "pattern": "(" * 500 + "a" + ")" * 500},
        {
            "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 3} for n in range(60)} | {"d60": {}},
            "$ref": "#/$defs/d0",
        },
        {"allOf": [{"anyOf": [{"required": [f"{n}{m}"]} for m in "ab"]} for n in range(20)]},
    ],
    ids=["long", "wide", "pattern", "parentheses", "refs", "products"],
)
def test_a_huge_schema_is_read_or_refused_soon(schema):
    begun = time.process_time()
    with contextlib.suppress(GrammarError):
        from_schema(schema)
    assert time.process_time() - begun < 2


def test_a_schema_that_nests_deeply_is_refused():
    schema = True
    for _ in range(50_000):
        schema = {"items": schema}
    with pytest.raises(GrammarError, match="nests deeper"):
        from_schema(schema)


def test_a_name_that_comes_twice_is_found():
    assert duplicate_name('{"a": [{"b": 1, "c": 2, "b": 3}]}') == "b"
    assert duplicate_name('{"a": {"b": 1}, "b": 2}') is None


HUGE = [
    {"type": "object", "properties": {f"p{n}": {"type": "string", "maxLength": n + 1} for n in range(2000)}},
    {"type": "object", "properties": {f"p{n}": {"type": "string", "pattern": f"^a{n}$"} for n in range(2000)}},
    {"anyOf": [{"properties": {f"p{n}": {"const": n}}, "additionalProperties": True} for n in range(2000)]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in range(2000)]},
    {"allOf": [{"properties": {f"p{n}": {"type": "string"}}} for n in range(2000)]},
]


@pytest.mark.parametrize("schema", HUGE, ids=lambda schema: str(schema)[:40])
def test_a_schema_that_unfolds_too_far_is_refused_in_time(schema):
    """llguidance, given it all, takes minutes or overflows its stack."""
    begun = time.process_time()
    with pytest.raises(GrammarError) as caught:
        from_schema(schema)
    assert time.process_time() - begun < 2
    assert caught.value.path.startswith("#")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("pattern", [r"\w+[\\]\w+", "a\nb", r"^\s\S*[\t]$", '"', "(?s:.)*\x01"])
def test_a_pattern_that_needs_an_escape_is_refused_and_does_not_end_a_reply(pattern):
    with pytest.raises(GrammarError, match="matches no text without escapes"):
        from_schema({"type": "string", "pattern": pattern})


def test_a_pattern_and_a_length_that_exclude_one_another_leave_nothing():
    with pytest.raises(GrammarError, match="#/pattern"):
        from_schema({"type": "string", "pattern": "^[a-z]{5}$", "maxLength": 4})
