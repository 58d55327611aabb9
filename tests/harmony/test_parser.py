"""Replies give the same events however their ids are split. Malformed replies are read as they were meant."""

import random
import time
from collections import Counter

import pytest

from gptoss_mlx.harmony import (
    Delta,
    Message,
    MessageEnd,
    MessageStart,
    ReplyEnd,
    StreamParser,
    Tokenizer,
    render,
    render_messages,
    reply_start,
)
from tests.support.harmony_goldens import read_golden
from tests.support.harmony_streams import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MALFORMED,
    MARKER_PIECES,
    MESSAGE,
    RETURN,
    START,
    encode,
    streams,
)

KINDS = ["well formed", "cut off", "missing end", "missing start", *MALFORMED]


def parse(tokenizer: Tokenizer, ids: list[int]) -> list:
    parser = StreamParser(tokenizer)
    return parser.feed(ids) + parser.finish()


def ids_of(tokenizer: Tokenizer, *pieces) -> list[int]:
    return encode(list(pieces), tokenizer.special, tokenizer.encode)


def meanings(events: list) -> list[list]:
    """Return ``[kind, recipient, text]`` of each message."""
    ends = [event for event in events if isinstance(event, MessageEnd)]
    return [[end.kind, end.message.recipient, end.message.content] for end in ends]


def check(tokenizer: Tokenizer, ids: list[int], rng: random.Random, spelled: bool = False) -> list:
    """Assert what holds for every sequence of ids, and return its events. ``spelled``: its text may spell markers."""
    events = parse(tokenizer, ids)

    one_by_one = StreamParser(tokenizer)
    chunked = StreamParser(tokenizer)
    again = [event for id in ids for event in one_by_one.feed(id)]
    assert again + one_by_one.finish() == events
    again = []
    at = 0
    while at < len(ids):
        size = rng.randrange(1, 9)
        again += chunked.feed(ids[at : at + size])
        at += size
    assert again + chunked.finish() == events
    assert chunked.finish() == []
    assert chunked.feed(ids) == []

    assert isinstance(events[-1], ReplyEnd)
    kept: list[int] = []
    text: list[str] | None = None
    for event in events[:-1]:
        if isinstance(event, MessageStart):
            assert text is None
            text = []
            kind = event.kind
            recipient = event.recipient
        elif isinstance(event, Delta):
            assert event.text
            assert event.kind == kind
            text.append(event.text)
        else:
            message = event.message
            assert (event.kind, message.recipient, message.content) == (kind, recipient, "".join(text))
            fields = [message.name, message.recipient, message.channel, message.content_type]
            if not spelled:
                assert not any("<|" in field or "|>" in field for field in fields if field), message
                assert not any(marker[0] in message.content for marker in MARKER_PIECES), message
            assert event.complete or event is events[-2]
            kept += message.ids
            text = None
    assert text is None

    # The messages' ids are the prompt's last ids and the generated ones, up to the stop or an abandoned header.
    special = tokenizer.special
    stops = [special["<|return|>"], special["<|call|>"], special["<|endoftext|>"]]
    generated = reply_start(tokenizer) + ids[: next((i + 1 for i, id in enumerate(ids) if id in stops), len(ids))]
    last = [special["<|end|>"], special["<|call|>"]]
    if kept and kept != generated[: len(kept)]:
        assert kept[-1] in last
        assert kept[:-1] == generated[: len(kept) - 1]
        assert len(kept) > len(generated) or generated[len(kept) - 1] in stops
    return events


@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_read_as_it_was_meant(kind, published, small):
    rng = random.Random(kind)
    for i, stream in enumerate(streams(kind, 500)):
        tokenizer = small if i % 4 == 0 else published
        events = check(tokenizer, encode(stream.pieces, tokenizer.special, tokenizer.encode), rng)
        assert meanings(events) == stream.expected, stream.pieces
        assert events[-1].cut_off == stream.cut_off, stream.pieces
        last = stream.pieces[-1]
        stop = {"<|return|>": "return", "<|endoftext|>": "return", "<|call|>": "call"}.get(last[0] if last else "")
        assert events[-1].stop == (stop or "limit")
        assert all(event.complete for event in events[:-2] if isinstance(event, MessageEnd))
        assert (stream.cut_off in (None, "header")) == (
            not any(isinstance(event, MessageEnd) and not event.complete for event in events)
        )


def test_mutated_and_random_streams_keep_the_rules(published, small):
    """Parse 4,000 mutations of the shapes above, and 2,000 random streams."""
    rng = random.Random("fuzz")
    shapes = [stream.pieces for kind in KINDS for stream in streams(kind, 60)]
    seen = Counter()
    for i in range(6000):
        tokenizer = small if i % 4 == 0 else published
        markers = [tokenizer.special[marker[0]] for marker in MARKER_PIECES[:6]]
        if i < 4000:
            ids = encode(rng.choice(shapes), tokenizer.special, tokenizer.encode)
            for _ in range(rng.randrange(1, 5)):
                at = rng.randrange(len(ids) + 1)
                change = rng.randrange(4)
                if change == 0:
                    ids[at:at] = [rng.choice(markers)]
                elif change == 1:
                    del ids[at : at + rng.randrange(1, 3)]
                elif change == 2:
                    ids[at : at + 1] = [rng.randrange(-2, tokenizer.vocab_size + 50)]
                else:
                    ids[at:at] = ids[at : at + rng.randrange(1, 6)]
        else:
            words = [
                *(
                    "assistant",
                    "user",
                    "tool",
                    "analysis",
                    "final",
                    "commentary",
                    " to=functions.f",
                    "json",
                    " ",
                    "{}",
                    "é🙂",
                ),
            ]
            ids = []
            for _ in range(rng.randrange(40)):
                if rng.random() < 0.4:
                    ids.append(rng.choice(markers))
                elif rng.random() < 0.7:
                    ids += tokenizer.encode(rng.choice(words))
                else:
                    ids.append(rng.randrange(tokenizer.vocab_size + 10))
        events = check(tokenizer, ids, rng, spelled="<|channel|>" in tokenizer.decode(ids))
        seen.update(event.kind for event in events if isinstance(event, MessageEnd))
        seen[events[-1].stop] += 1
    assert min(seen[name] for name in ("thought", "preamble", "answer", "call", "other", "return", "limit")) > 50, seen


def test_openai_harmony_reads_the_same_where_it_can(published):
    """Shapes are left out if openai-harmony raises on them or reads a wrong recipient."""
    same = {*MALFORMED} - {"doubled start", "missing message", "final json", "extra header words", "channel glued on"}
    compared = Counter()
    for golden in read_golden("streams.jsonl.xz"):
        if golden["messages"] is None:
            continue
        ends = [event for event in parse(published, golden["ids"]) if isinstance(event, MessageEnd)]
        ours = [[end.message.channel, end.message.recipient, end.message.content] for end in ends]
        if golden["kind"] in same | {"well formed", "cut off"}:
            assert ours == golden["messages"]
            compared[golden["kind"]] += 1
    assert sum(compared.values()) >= 300
    assert len(compared) == len(same) + 2


def test_argument_text_survives_byte_for_byte(published):
    """A marker that the model spelled in ordinary tokens is text."""
    for body in ('{"a": "<|call|><|end|><|start|>user<|message|>"}', '{ "a" :\t1}\n', "not json <|", '"\\ud800"'):
        pieces = [CHANNEL, "commentary to=functions.f ", CONSTRAIN, "json", MESSAGE, body, CALL]
        events = check(published, ids_of(published, *pieces), random.Random(0), spelled=True)
        assert meanings(events) == [["call", "functions.f", body]]


def test_broken_utf8_is_replaced_not_lost(small):
    """In this vocabulary every byte is a token, so a reply can stop inside a character."""
    head = ids_of(small, CHANNEL, "final", MESSAGE)
    smile = list("🙂".encode())
    reserved = small.special["<|startoftext|>"]
    constrain = small.special["<|constrain|>"]
    for body, text in [
        (smile, "🙂"),
        (smile[:3], "\ufffd"),
        ([*smile[:2], 0x61], "\ufffda"),
        ([0xFF, 0x61], "\ufffda"),
        ([*smile[:2], reserved, *smile[2:]], "🙂"),
        ([*smile[:2], constrain, *smile[2:]], "\ufffd" * 3),
    ]:
        events = check(small, [*head, *body, small.special["<|return|>"]], random.Random(0))
        assert meanings(events) == [["answer", None, text]]


def test_preamble_is_visible_text_of_its_own_kind(published):
    ids = ids_of(published, CHANNEL, "commentary", MESSAGE, "I will look.", END, START, "assistant")
    ids += ids_of(published, CHANNEL, "commentary to=functions.f", MESSAGE, "{}", CALL)
    assert meanings(parse(published, ids)) == [["preamble", None, "I will look."], ["call", "functions.f", "{}"]]


def test_recipients_that_are_nobody_in_particular_make_no_call(published):
    for recipient in ("all", "user", "assistant"):
        ids = ids_of(published, CHANNEL, f"commentary to={recipient}", MESSAGE, "hi", END)
        assert meanings(parse(published, ids)) == [["preamble", None, "hi"]]


def test_model_speaking_for_others_is_not_its_answer(published):
    ids = ids_of(published, CHANNEL, "final", MESSAGE, "4", END, START, "user", MESSAGE, "And 3+3?", END)
    ids += ids_of(published, START, "functions.f to=assistant", CHANNEL, "commentary", MESSAGE, "6", END)
    events = parse(published, ids)
    assert meanings(events) == [["answer", None, "4"], ["other", None, "And 3+3?"], ["other", "assistant", "6"]]
    roles = [(event.message.role, event.message.name) for event in events if isinstance(event, MessageEnd)]
    assert roles == [("assistant", None), ("user", None), ("tool", "functions.f")]


def test_reply_cut_off_in_a_thought_has_no_answer(published):
    events = parse(published, ids_of(published, CHANNEL, "analysis", MESSAGE, "So the answer is 4"))
    assert meanings(events) == [["thought", None, "So the answer is 4"]]
    assert events[-1] == ReplyEnd("limit", "thought")
    assert not events[-2].complete


def test_plain_text_without_any_marker_streams_as_an_answer(published):
    """Text is shown at once even if the model omits the format."""
    text = "word " * 200
    parser = StreamParser(published)
    events = parser.feed(published.encode(text)[:100])
    assert any(isinstance(event, Delta) for event in events)
    events += parser.feed(published.encode(text)[100:]) + parser.finish()
    assert meanings(events) == [["answer", None, text]]


def test_endless_blanks_in_a_header_are_read_quickly(published):
    """A pattern that is tried again at every blank would take minutes."""
    ids = [*published.encode("\n \t" * 30_000), *ids_of(published, MESSAGE, "x", RETURN)]
    begun = time.process_time()
    assert meanings(parse(published, ids)) == [["answer", None, "x"]]
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("head", [[], [CHANNEL], [END], [END, START], [CHANNEL, "final"]])
@pytest.mark.parametrize("filler", [" " * 128, "?", "final"])
def test_a_header_that_never_ends_costs_each_token_the_same(published, head, filler):
    """Joining or searching the whole header at every token would take hours for a full context."""
    begin = ids_of(published, *head)
    more = published.encode(filler)

    def seconds(count):
        parser = StreamParser(published)
        begun = time.process_time()
        parser.feed(begin)
        for _ in range(count):
            parser.feed(more)
        parser.finish()
        return time.process_time() - begun

    assert min(seconds(16_000) for _ in range(3)) < 10 * max(seconds(4_000) for _ in range(3))


def test_history_keeps_generated_ids_with_the_stop_turned_into_an_end(published):
    question = [Message("user", "2+2?")]
    prompt = render(question, published)
    generated = ids_of(published, CHANNEL, "analysis", MESSAGE, "Hm", END, START, "assistant", CHANNEL, "final")
    generated += ids_of(published, MESSAGE, "4", RETURN)
    history = question + [e.message for e in parse(published, generated) if isinstance(e, MessageEnd)]
    end = published.special["<|end|>"]
    assert render_messages(history, published) == [*prompt, *generated[:-1], end]

    call = ids_of(published, CHANNEL, "analysis to=functions.f code", MESSAGE, "{}", ENDOFTEXT)
    history = question + [e.message for e in parse(published, call) if isinstance(e, MessageEnd)]
    assert render_messages(history, published) == [*prompt, *call[:-1], published.special["<|call|>"]]

    cut = ids_of(published, CHANNEL, "final", MESSAGE, "The answ")
    history = question + [e.message for e in parse(published, cut) if isinstance(e, MessageEnd)]
    assert render_messages(history, published) == [*prompt, *cut, end]


def test_history_keeps_even_malformed_ids(published):
    question = [Message("user", "2+2?")]
    reply = ids_of(
        published, CHANNEL, "analysis", MESSAGE, "Hm", END, "Four.", END, CHANNEL, "final", MESSAGE, "4", END
    )
    history = question + [event.message for event in parse(published, reply) if isinstance(event, MessageEnd)]
    assert len(history) == 4
    assert render_messages(history, published) == render(question, published) + reply


def test_message_that_leaned_on_a_dropped_thought_gets_a_beginning(published):
    reply = ids_of(published, CHANNEL, "analysis", MESSAGE, "Hm", CHANNEL, "final", MESSAGE, "4", RETURN)
    history = [Message("user", "2+2?")]
    history += [event.message for event in parse(published, reply) if isinstance(event, MessageEnd)]
    assert published.decode(render([*history, Message("user", "Sure?")], published), markers=True) == (
        "<|start|>user<|message|>2+2?<|end|><|start|>assistant<|channel|>final<|message|>4<|end|>"
        "<|start|>user<|message|>Sure?<|end|><|start|>assistant"
    )
