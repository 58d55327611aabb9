"""What a batch makes of a scripted reply: an answer, an error, or a second attempt."""

import pytest

from gptoss_mlx.harmony import Tokenizer
from tests.support import scripted
from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode

THOUGHT = [CHANNEL, "analysis", MESSAGE, "Let me see."]
ANSWER = [CHANNEL, "final", MESSAGE, "It is 4.", RETURN]
SILENT = [*THOUGHT, RETURN]
F = {"type": "function", "function": {"name": "f"}}


def calling(name, arguments="{}"):
    return [CHANNEL, f"commentary to={name} ", CONSTRAIN, "json", MESSAGE, arguments, CALL]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture
def ask(tokenizer):
    """Answer one line with these replies. Return the answers, the errors and the rows that were added."""

    def ask(*replies, body=None, **options):
        ids = [encode(reply, tokenizer.special, tokenizer.encode) for reply in replies]
        answers, errors, engine = scripted.batch(tokenizer, *ids, body=body or {"prompt": "2 + 2?"}, **options)
        return answers, errors, engine.asked

    return ask


@pytest.mark.parametrize("silence", [SILENT, [RETURN], [CHANNEL, "final", MESSAGE, RETURN], [*THOUGHT, END, RETURN]])
def test_a_reply_without_an_answer_is_an_error_of_its_own_where_chance_cannot_help(ask, silence):
    answers, errors, asked = ask(silence)
    assert answers == []
    assert errors[0]["error"]["code"] == "no_answer"
    assert len(asked) == 1


def test_where_tokens_are_drawn_it_is_asked_once_more_with_the_next_seed(ask):
    answers, errors, asked = ask(SILENT, ANSWER, temperature=1, body={"prompt": "2 + 2?", "seed": 6})
    assert errors == []
    (answer,) = answers
    assert answer["answer"] == "It is 4."
    assert answer["attempts"] == 2
    assert answer["usage"] == answer["usage_of_attempts"][1]
    assert [usage["completion_tokens"] for usage in answer["usage_of_attempts"]] == [8, 9]
    assert [row.sampling.seed for row in asked] == [6, 7]


def test_a_second_silence_is_the_end_of_it(ask):
    answers, errors, asked = ask(SILENT, SILENT, ANSWER, temperature=1)
    assert answers == []
    assert "twice" in errors[0]["error"]["message"]
    assert len(asked) == 2


def test_a_line_of_openais_says_beside_its_response_that_it_was_asked_twice(ask):
    body = {"messages": [{"role": "user", "content": "2 + 2?"}]}
    (answer,), _, _ = ask(SILENT, ANSWER, temperature=1, kind="chat", body=body)
    assert answer["attempts"] == 2
    assert "attempts" not in answer["response"]["body"]


def test_a_seeded_run_asks_with_the_same_two_seeds_whenever_it_is_run(ask):
    """A run that was killed between the two attempts repeats the first."""
    first = [row.sampling.seed for row in ask(SILENT, ANSWER, temperature=1, seed=3)[2]]
    second = [row.sampling.seed for row in ask(SILENT, ANSWER, temperature=1, seed=3)[2]]
    assert first == second
    assert first[1] == first[0] + 1


@pytest.mark.parametrize(("tools", "called"), [([], "python"), ([F], "functions.g"), ([], "functions.f")])
def test_a_call_of_a_tool_that_was_not_offered_is_an_error_and_never_a_call(ask, tools, called):
    answers, errors, _ = ask(calling(called), body={"prompt": "?", "tools": tools})
    assert answers == []
    assert errors[0]["error"]["code"] == "unknown_tool"
    assert called.removeprefix("functions.") in errors[0]["error"]["message"]


def test_the_name_of_such_a_tool_is_shown_in_one_line(ask):
    _, errors, _ = ask(calling("functions.g\x1b[31m"))
    assert "'g\\x1b[31m'" in errors[0]["error"]["message"]


def test_arguments_to_a_declared_tool_are_passed_on_as_written_and_blank_ones_as_an_empty_object(ask):
    two = [*calling("functions.fjson", '{"a": ')[:-1], END, START, "assistant", *calling("functions.f", " ")]
    (answer,), _, _ = ask(two, body={"prompt": "?", "tools": [F]})
    assert answer["tool_calls"] == [{"name": "f", "arguments": '{"a": '}, {"name": "f", "arguments": "{}"}]
    assert answer["finish_reason"] == "tool_calls"


def test_a_stop_string_that_leaves_nothing_is_what_was_asked_for(ask):
    (answer,), errors, _ = ask(ANSWER, body={"prompt": "?", "stop": "It"})
    assert errors == []
    assert (answer["answer"], answer["finish_reason"]) == ("", "stop")


SUM = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
FORM = {"type": "json_schema", "json_schema": {"name": "s", "schema": SUM}}


def saying(text, *ending):
    return [*THOUGHT, END, START, "assistant", CHANNEL, "final", MESSAGE, text, *ending]


def test_an_answer_under_a_schema_is_the_value(ask):
    (answer,), errors, _ = ask(saying('{"sum": 4}', RETURN), schema=SUM)
    assert errors == []
    assert answer["answer"] == {"sum": 4}
    (own,), _, _ = ask(saying('{"sum": 5}', RETURN), body={"prompt": "?", "response_format": FORM})
    assert own["answer"] == {"sum": 5}


def test_a_value_that_was_cut_off_or_has_a_name_twice_is_no_answer(ask):
    answers, errors, _ = ask(saying('{"sum": 4'), schema=SUM)
    assert answers == []
    assert errors[0]["error"]["code"] == "incomplete"
    answers, errors, _ = ask(saying('{"sum": 4, "sum": 5}', RETURN), schema=SUM)
    assert answers == []
    assert "twice" in errors[0]["error"]["message"]
    answers, errors, _ = ask(saying('["a", ' * 500), schema=SUM)
    assert "repetition" in errors[0]["error"]["message"]


def test_a_reply_that_only_repeats_itself_says_so(ask):
    (answer,), _, _ = ask(saying("It is 4. " * 500))
    assert answer["finish_reason"] == "repetition"
    (whole,), _, _ = ask(saying("It is 4. " * 500), repeat_guard=False)
    assert whole["finish_reason"] == "length"
    assert len(whole["answer"]) == 4500


def test_lines_are_held_to_what_they_and_the_run_ask_for(ask):
    """What a real model may then draw is tested with one."""
    body = {"prompt": "?", "tools": [F], "tool_choice": "required"}
    (answer,), _, _ = ask(calling("functions.f"), body=body)
    assert answer["finish_reason"] == "tool_calls"
    answers, errors, _ = ask(ANSWER, body={"prompt": "?", "tool_choice": "required"})
    assert answers == []
    assert errors[0]["error"]["param"] == "tool_choice"
    bad = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": {"not": {}}}}
    _, errors, _ = ask(ANSWER, body={"prompt": "?", "response_format": bad})
    assert errors[0]["error"]["param"] == "response_format.json_schema.schema"
