"""Conversations become exactly the ids that openai-harmony gives them."""

from dataclasses import replace

import pytest

from gptoss_mlx.errors import ContextLengthError, HarmonyError
from gptoss_mlx.harmony import (
    Developer,
    Message,
    ResponseFormat,
    System,
    drop_thoughts,
    render,
    render_messages,
    tool_call,
    tool_result,
)
from tests.support.harmony_goldens import message_of, read_golden

CONVERSATIONS = read_golden("conversations.jsonl.xz")


@pytest.mark.parametrize("golden", CONVERSATIONS, ids=lambda golden: "")
def test_ids_are_those_of_openai_harmony(golden, published):
    messages = [message_of(raw) for raw in golden["messages"]]
    ids = render(messages, published)
    if ids != golden["ids"]:  # readable before exact
        assert published.decode(ids, markers=True) == published.decode(golden["ids"], markers=True)
    assert ids == golden["ids"]


def test_goldens_cover_what_they_claim():
    assert len(CONVERSATIONS) >= 200
    for trait in ("tools", "declared", "turns_with_thoughts", "markers"):
        assert sum(golden["traits"][trait] for golden in CONVERSATIONS) >= len(CONVERSATIONS) / 4
    for golden in CONVERSATIONS:
        calls = [message for message in golden["messages"] if message.get("recipient", "").startswith("functions.")]
        assert bool(calls) or not golden["traits"]["tools"]
    # openai-harmony has a rule of its own for dropping thoughts, which keeps more than ours.
    differing = [golden for golden in CONVERSATIONS if not golden["auto_drop_agrees"]]
    assert 20 <= len(differing) <= len(CONVERSATIONS) - 20


def texts(messages):
    return [message.content for message in messages]


def test_thoughts_before_the_last_question_are_dropped():
    call = replace(tool_call("functions.f", "{}"), channel="analysis")
    turn = [Message("user", "q"), Message("assistant", "t", channel="analysis"), call, tool_result(call, "r")]
    answer = Message("assistant", "a", channel="final")
    assert texts(drop_thoughts([*turn, answer, *turn])) == ["q", "a", "q", "t", "{}", "r"]
    assert texts(drop_thoughts([*turn, answer])) == ["q", "t", "{}", "r", "a"]
    assert texts(drop_thoughts(turn[1:])) == ["t", "{}", "r"]
    assert drop_thoughts([]) == []


def test_generated_messages_keep_the_ids_the_model_wrote(published):
    """openai-harmony would order the header differently and encode the same text as other ids."""
    odd = [
        published.special["<|start|>"],
        *published.encode("assistant"),
        published.special["<|channel|>"],
        *published.encode("commentary to=functions.f"),
        published.special["<|message|>"],
        *(id for letter in "{}" for id in published.encode(letter)),
        published.special["<|call|>"],
    ]
    message = replace(tool_call("functions.f", "{}"), ids=tuple(odd))
    assert render_messages([message], published) == odd
    assert render_messages([replace(message, ids=None)], published) != odd


def test_another_vocabulary_renders_its_own_ids(small, published):
    messages = [Message("system", System()), Message("user", "the 🙂<|end|>"), tool_call("functions.f", "{}")]
    assert small.decode(render(messages, small), markers=True) == published.decode(
        render(messages, published), markers=True
    )
    assert render(messages, small).count(small.special["<|end|>"]) == 2


def test_to_all_is_no_recipient(published):
    """openai-harmony leaves `to=all` out too, but ends the message in <|call|>."""
    everyone = Message("assistant", "hi", recipient="all", channel="commentary")
    assert render([everyone], published) == render([replace(everyone, recipient=None)], published)


def test_response_format_stands_last_in_the_developer_message(published):
    form = ResponseFormat("shopping_list", {"type": "object", "properties": {"é": {"type": "string"}}}, "What to buy")
    text = published.decode(render_messages([Message("developer", Developer("Be brief.", (), form))], published))
    assert text == (
        "developer# Instructions\n\nBe brief.\n\n# Response Formats\n\n## shopping_list\n\n// What to buy\n"
        '{"type":"object","properties":{"é":{"type":"string"}}}'
    )


def test_every_line_of_a_response_formats_description_is_a_comment(published):
    form = ResponseFormat("list", {"default": 1e16}, "What\nto buy")
    text = published.decode(render_messages([Message("developer", Developer(response_format=form))], published))
    assert text == 'developer# Response Formats\n\n## list\n\n// What\n// to buy\n{"default":1e16}'


@pytest.mark.parametrize(
    "message",
    [
        Message("tool", "no name"),
        Message("user", System()),
        Message("system", Developer()),
        Message("developer", Developer(response_format=ResponseFormat("list", {"x": {1, 2}}))),
        Message("developer", Developer(response_format=ResponseFormat("list", {"x": float("nan")}))),
    ],
)
def test_malformed_messages_are_refused_in_one_line(message, published):
    with pytest.raises(HarmonyError) as caught:
        render([message], published)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["word " * 2_000_000, "x" * 9_000_000, " " * 9_000_000, "漢" * 3_000_000, "1" * 9_000_000]
)
def test_a_text_far_over_the_limit_is_refused_before_it_is_encoded_whole(published, monkeypatch, text):
    encoded = 0
    real = type(published).encode

    def encode(self, text):
        nonlocal encoded
        encoded += len(text)
        return real(self, text)

    monkeypatch.setattr(type(published), "encode", encode)
    with pytest.raises(ContextLengthError, match=r"about [\d,]+ tokens and the model's context holds 1,000"):
        render([Message("user", text)], published, limit=1000)
    assert encoded < 500_000


def test_messages_that_are_too_long_together_are_refused_too(published):
    with pytest.raises(ContextLengthError, match="more than"):
        render([Message("user", "word " * 100)] * 100, published, limit=1000)


def test_what_fits_is_the_same_with_a_limit(published):
    """A text of many characters may have few tokens."""
    messages = [Message("user", " " * 20_000), Message("user", "word " * 500)]
    assert render(messages, published, limit=1000) == render(messages, published)
