from itertools import groupby
from pathlib import Path
from random import Random

import pytest

from gptoss_mlx.harmony import MessageEnd, StreamParser, Tokenizer, render
from tests.tiny.training.arithmetic import is_held_out_pair, is_held_out_phrasing
from tests.tiny.training.conversations import Author
from tests.tiny.training.examples import encode
from tests.tiny.training.phrases import ADD_EXPRESSIONS, QUESTION_FRAMES

CHECKPOINT = Path(__file__).parents[2] / "gptoss_mlx/tiny/checkpoint"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(CHECKPOINT / "tokenizer.json")


def test_every_byte_has_a_token_and_digits_stand_alone(tokenizer):
    text = "1234 + 56 = 1290, naïve 漢字 🙂 \x00\x7f"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("20261122")) == 8
    assert tokenizer.vocab_size == 1024


def test_the_model_learns_to_go_on_from_the_very_prompts_the_runtime_makes(tokenizer):
    author = Author(Random(0))
    for _ in range(200):
        setting = author.setting()
        messages = author.conversation(setting)
        ids, learn = encode(messages, tokenizer, calls_as_emitted=False)
        asked = max(i for i, message in enumerate(messages) if message.role in ("user", "tool"))
        prompt = render([*setting.head(), *messages[: asked + 1]], tokenizer)
        head = render(setting.head(), tokenizer)
        given = learn.index(True)
        assert head[:-2] + ids[:given] == prompt
        assert ids[-1] == tokenizer.special["<|return|>"]
        assert learn[-1]


def test_what_it_learns_to_write_is_read_back_as_it_was_meant(tokenizer):
    author = Author(Random(1))
    for _ in range(200):
        messages = author.conversation(author.setting())
        ids, learn = encode(messages, tokenizer)
        asked = max(i for i, message in enumerate(messages) if message.role == "user")
        own = [message for message in messages[asked:] if message.role == "assistant"]
        events = []
        for learnt, span in groupby(zip(ids, learn, strict=True), key=lambda pair: pair[1]):
            if learnt:  # a tool's result separates two replies
                parser = StreamParser(tokenizer)
                events += [event for id, _ in span for event in parser.feed(id)] + parser.finish()
        read = [event.message for event in events if isinstance(event, MessageEnd)]
        assert [(m.channel, m.recipient, m.content) for m in read] == [(m.channel, m.recipient, m.content) for m in own]


def test_training_draws_no_held_out_pair_or_phrasing():
    author = Author(Random(2))
    evaluator = Author(Random(2), held_out=True)
    for _ in range(1000):
        assert not is_held_out_pair(*author.pair())
        assert is_held_out_pair(*evaluator.pair())
        assert not is_held_out_phrasing(author.phrasing(ADD_EXPRESSIONS, QUESTION_FRAMES))
        assert is_held_out_phrasing(evaluator.phrasing(ADD_EXPRESSIONS, QUESTION_FRAMES))
