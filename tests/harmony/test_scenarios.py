"""Each named scenario in tests/data/harmony/scenarios shows one rule of the format, as openai-harmony applies it."""

import json
from itertools import pairwise

import pytest

from gptoss_mlx.harmony import MessageEnd, StreamParser, Tokenizer, render
from tests.support.harmony_goldens import FOLDER, checksums, message_of, read_scenario

SCENARIOS = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("scenarios/*"))
CONVERSATIONS = [name for name in SCENARIOS if not name.startswith("scenarios/reply_")]
REPLIES = [name for name in SCENARIOS if name.startswith("scenarios/reply_")]
THOUGHT = {"channel": "analysis", "recipient": None, "content": "Hm."}
ANSWER = {"channel": "final", "recipient": None, "content": "4"}
CALL = {"channel": "commentary", "recipient": "functions.f", "content": '{"a": 1}'}
MORE_LENIENT = {
    "scenarios/reply_doubled_start.txt": [ANSWER],
    "scenarios/reply_extra_words_in_the_header.txt": [CALL],
    "scenarios/reply_next_message_without_start.txt": [THOUGHT, ANSWER],
    "scenarios/reply_plain_text.txt": [{"channel": None, "recipient": None, "content": "The answer is 4."}],
    "scenarios/reply_thought_without_end.txt": [THOUGHT, ANSWER],
    "scenarios/reply_two_channels_in_one_header.txt": [CALL | {"content": "{}"}],
}
"""What we read where openai-harmony raises, or takes a marker for text."""


def spelled(ids: list[int], tokenizer: Tokenizer) -> str:
    """Return the text of ids, markers included, each message on a line of its own."""
    starts = [i for i, id in enumerate(ids) if i and id == tokenizer.special["<|start|>"]]
    return "\n".join(tokenizer.decode(ids[a:b], markers=True) for a, b in pairwise([0, *starts, len(ids)]))


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_becomes_the_prompt_of_openai_harmony(name, published):
    scenario = read_scenario(name)
    ids = render(map(message_of, json.loads(scenario["messages"])), published)
    assert spelled(ids, published) == scenario["prompt"]
    assert ids == json.loads(scenario["ids"])


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_read_as_it_was_meant(name, published):
    scenario = read_scenario(name)
    ids = json.loads(scenario["ids"])
    assert spelled(ids, published) == scenario["reply"]
    parser = StreamParser(published)
    messages = [event.message for event in parser.feed(ids) + parser.finish() if isinstance(event, MessageEnd)]
    ours = [{"channel": m.channel, "recipient": m.recipient, "content": m.content} for m in messages]
    theirs = json.loads(scenario["read"])
    assert ours == MORE_LENIENT.get(name, theirs)
    assert (ours == theirs) == (name not in MORE_LENIENT)


def test_every_scenario_has_its_checksum():
    assert sorted(name for name in checksums() if name.startswith("scenarios/")) == SCENARIOS
