"""Whatever is drawn under harmony's grammar is well formed, calls only what was offered, and holds to its schemas."""

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from gptoss_mlx.engine.constraint import follow
from gptoss_mlx.errors import GrammarError
from gptoss_mlx.grammars import from_lark, from_schema, json_object
from gptoss_mlx.grammars.budget import ThoughtBudget
from gptoss_mlx.grammars.reply import PYTHON, Tool, function, reply
from gptoss_mlx.harmony import Function, StreamParser
from gptoss_mlx.harmony.parser import MessageEnd, ReplyEnd

ANSWER = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [
    function(Function("get_weather", parameters=WEATHER)),
    function(Function("stop")),
    PYTHON,
    Tool(
        "functions.apply_patch", from_lark('start: "*** Begin" "\\n" /[+-][a-z ]{1,9}/ "\\n*** End"'), content_type=None
    ),
]


def drawn(vocabulary, tokenizer, grammar, seed, most=160, budget=None, share=0.5, begun=()):
    """Return ids that begin with ``begun`` and are drawn uniformly, but where text and markers are allowed a marker
    half the time. Ends at a stop."""
    rng = np.random.default_rng(seed)
    constraint = vocabulary.constraint(grammar)
    if budget is not None:
        constraint = ThoughtBudget.of(constraint, budget, tokenizer)
    special = np.array(sorted(tokenizer.special.values()))
    stops = {tokenizer.special["<|return|>"], tokenizer.special["<|call|>"]}
    ids = follow(constraint, None)
    for id in begun:
        ids += [id, *follow(constraint, id)]
    while not stops & {*ids} and len(ids) < most:
        mask = np.unpackbits(constraint.mask().view(np.uint8), bitorder="little")
        markers = special[mask[special] == 1]
        ids.append(int(rng.choice(markers if len(markers) and rng.random() < share else np.flatnonzero(mask))))
        if ids[-1] not in stops:
            ids += follow(constraint, ids[-1])
    return ids[: next((n + 1 for n, id in enumerate(ids) if id in stops), len(ids))]


def read(tokenizer, ids):
    """Return the messages of a reply, how it ended, and what the reader repaired."""
    parser = StreamParser(tokenizer)
    events = [*parser.feed(ids), *parser.finish()]
    messages = [event for event in events if isinstance(event, MessageEnd)]
    (end,) = [event for event in events if isinstance(event, ReplyEnd)]
    return messages, end, parser.repairs


@pytest.mark.parametrize("choice", ["none", "auto", "required", "functions.get_weather"])
def test_what_is_drawn_is_well_formed_and_calls_what_is_offered(choice, vocabulary, tokenizer):
    tools = [tool for tool in TOOLS if tool.recipient == choice] or TOOLS
    grammar = reply(from_schema(ANSWER), tools, choice if choice in ("none", "auto") else "required")
    called, answered = set(), 0
    for seed in range(25):
        messages, end, repairs = read(tokenizer, drawn(vocabulary, tokenizer, grammar, seed))
        assert not repairs
        for number, one in enumerate(messages):
            last = number == len(messages) - 1
            assert one.kind in ("thought", "preamble") or last
            if one.kind == "call":
                called.add(one.message.recipient)
            if not one.complete:
                continue
            if one.kind == "answer":
                assert end.stop == "return"
                assert "preamble" not in [before.kind for before in messages]
                jsonschema.validate(json.loads(one.message.content), ANSWER)
                answered += 1
            elif one.message.recipient == "functions.get_weather":
                assert end.stop == "call"
                assert (one.message.content_type, one.message.constrained) == ("json", True)
                jsonschema.validate(json.loads(one.message.content), WEATHER)
            elif one.message.recipient == "functions.apply_patch":
                assert one.message.content.startswith("*** Begin\n")
    offered = {tool.recipient for tool in TOOLS}
    assert called == {"none": set(), "functions.get_weather": {"functions.get_weather"}}.get(choice, offered)
    assert bool(answered) == (choice in ("none", "auto"))


def test_without_tools_and_schemas_only_headers_are_held_to_a_form(vocabulary, tokenizer):
    kinds = set()
    for seed in range(25):
        messages, _, repairs = read(tokenizer, drawn(vocabulary, tokenizer, reply(), seed))
        assert not repairs
        kinds |= {one.kind for one in messages}
    assert kinds == {"thought", "answer"}


def test_a_reply_as_models_write_it_is_allowed(vocabulary, tokenizer):
    special = tokenizer.special
    pieces = ["<|channel|>", "analysis", "<|message|>", "Let me <|call|> see: {", "<|end|>", "<|start|>", "assistant"]
    for head in (
        ["<|channel|>", "commentary to=functions.get_weather ", "<|constrain|>", "json", "<|message|>"],
        [" to=functions.get_weather", "<|channel|>", "commentary ", "<|constrain|>", "json", "<|message|>"],
    ):
        ids = []
        for piece in [*pieces, *head, '{"city": "Rome", "days": 3}', "<|call|>"]:
            ids += [special[piece]] if piece in special and piece != "Let" else tokenizer.encode(piece)
        constraint = vocabulary.constraint(reply(from_schema(ANSWER), TOOLS))
        for id in ids:
            constraint.accept(id)
        assert constraint.complete


def test_a_call_that_must_be_made_needs_a_tool():
    with pytest.raises(ValueError, match="no tool is offered"):
        reply(None, [], "required")


def test_arguments_of_a_function_are_as_strict_as_it_is_declared():
    odd = Function("f", parameters=WEATHER | {"not": {"type": "null"}})
    with pytest.raises(GrammarError, match="not cannot be enforced"):
        function(replace(odd, strict=True))
    (warning,) = function(odd).body.warnings
    assert warning == "#: not cannot be enforced; it is dropped"
    assert function(odd).body.lark == from_schema(WEATHER).lark
    assert function(replace(odd, strict=False)).body == json_object()
    broken = function(Function("f", parameters={"type": "odd"})).body
    assert broken.lark == json_object().lark
    assert "any JSON object is taken" in broken.warnings[0]


@pytest.mark.parametrize(("choice", "kinds"), [("auto", {"answer"}), ("required", {"call"})])
def test_a_thought_ends_where_its_budget_does_and_what_must_come_begins(choice, kinds, vocabulary, tokenizer):
    """Uniform draws of text would think for ever."""
    grammar = reply(from_schema(ANSWER), TOOLS, choice)
    begun = [tokenizer.special["<|channel|>"], *tokenizer.encode("analysis"), tokenizer.special["<|message|>"]]
    begins = set()
    for seed in range(8):
        ids = drawn(vocabulary, tokenizer, grammar, seed, budget=30, share=0, begun=begun)
        messages, _, repairs = read(tokenizer, ids)
        assert not repairs
        thought, last = messages[0], messages[-1]
        assert thought.kind == "thought"
        assert "\ufffd" not in thought.message.content
        assert 25 <= len(thought.message.ids) <= 40
        begins.add(last.kind)
        if last.kind == "answer":
            assert last.complete
            jsonschema.validate(json.loads(last.message.content), ANSWER)
    assert begins == kinds


def test_an_answer_or_a_call_that_has_begun_is_not_cut_by_the_budget(vocabulary, tokenizer):
    grammar = reply(from_schema({"type": "string", "minLength": 40, "maxLength": 60}), TOOLS)
    opened = [tokenizer.special["<|channel|>"], *tokenizer.encode("final"), tokenizer.special["<|message|>"]]
    budget = ThoughtBudget.of(vocabulary.constraint(grammar), 5, tokenizer)
    for id in [*opened, *tokenizer.encode('"' + "a b " * 12)]:
        assert not budget.forced() or budget.forced()[0] != tokenizer.special["<|end|>"]
        budget.accept(id)
    budget.rewind(2)
    assert budget.length == 2
