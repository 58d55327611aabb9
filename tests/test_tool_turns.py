"""Turns in which the model calls tools that the conversation runs."""

import threading
import time

import pytest

from gptoss_mlx.conversation import TOOL_REPLIES
from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import Done, Text, Thought, ToolCall, ToolError, ToolResult
from gptoss_mlx.harmony import Namespace
from gptoss_mlx.tools.tool import MOST_CHARACTERS, Tool
from tests.test_conversation import CALL, FINAL, NEXT, THINK, prompts, said, saying, tokenizer  # noqa: F401

ANSWER = FINAL + "Done.<|return|>"
ADD = CALL.format("add", '{"a": 2, "b": 3}')


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def results(events):
    return [(event.output, event.failed) for event in events if isinstance(event, ToolResult)]


def test_a_function_is_called_and_the_model_answers_from_what_it_returned(saying):  # noqa: F811
    chat = saying(THINK + "I add." + NEXT + ADD, ANSWER, tools=[add])
    events = list(chat.send("2 + 3?"))
    assert [type(event) for event in events if not isinstance(event, Thought | Text)] == [ToolCall, ToolResult, Done]
    assert results(events) == [("5", False)]
    assert said(events, Text) == "Done."
    assert (events[-1].reason, events[-1].usage.thought_tokens > 0) == ("stop", True)
    first, second = prompts(chat)
    assert "type add = (_: {\na: number,\nb: number,\n}) => any;" in first
    assert second.endswith(
        "<|start|>functions.add to=assistant<|channel|>commentary<|message|>5<|end|><|start|>assistant"
    )


def test_what_fails_is_told_to_the_model(saying):  # noqa: F811
    def fail(why: str) -> str:
        raise SystemExit(why)

    for arguments, told in (
        ('{"why": "no\\n"}', "Error: SystemExit: no\\n"),
        ('{"what": 1}', "Error: TypeError: test_what_fails_is_told_to_the_model.<locals>.fail() got an unexpected"),
    ):
        chat = saying(CALL.format("fail", arguments), ANSWER, tools=[fail])
        (outcome,) = results(chat.send("go"))
        assert outcome[0].startswith(told)
        assert outcome[1]
        assert told in prompts(chat)[1]


def test_unknown_tools_and_invalid_json_are_told_to_the_model(saying):  # noqa: F811
    chat = saying(CALL.format("sub", "{}"), CALL.format("add", '{"a": '), ADD, ANSWER, tools=[add])
    events = list(chat.send("go"))
    assert [event.name for event in events if isinstance(event, ToolError)] == ["sub", "add"]
    assert results(events) == [("5", False)]
    assert "there is no tool 'functions.sub'; available: add" in prompts(chat)[1]


def test_a_call_that_takes_too_long_is_given_up(saying):  # noqa: F811
    ended = threading.Event()

    def wait(arguments, stop):
        stop.wait(20)
        ended.set()

    slow = Tool(Namespace("python", "d"), wait, "test", seconds=0.1)
    chat = saying("<|channel|>analysis to=python code<|message|>1 + 1<|call|>", ANSWER, tools=[slow])
    assert results(chat.send("go")) == [("Error: python did not end within 0.1 seconds.", True)]
    assert ended.wait(5), "the tool was not asked to end"


def test_a_built_in_tool_gets_its_text_and_is_declared_in_the_system_message(saying):  # noqa: F811
    ran = []
    python = Tool(
        Namespace("python", "Runs code."), lambda arguments, stop: ran.append(arguments["code"]) or "2", "test"
    )
    chat = saying("<|channel|>analysis to=python code<|message|>print(1 + 1)<|call|>", ANSWER, tools=[python])
    list(chat.send("go"))
    assert ran == ["print(1 + 1)"]
    first, second = prompts(chat)
    assert "# Tools\n\n## python\n\nRuns code.\n\n# Valid channels" in first
    assert second.endswith("<|start|>python to=assistant<|channel|>analysis<|message|>2<|end|><|start|>assistant")


def test_several_calls_of_one_reply_are_all_answered_in_their_order(saying):  # noqa: F811
    unended = ADD.removesuffix("<|call|>") + "<|end|><|start|>assistant"
    chat = saying(unended + ADD.replace("2", "4"), ANSWER, tools=[add])
    assert results(chat.send("go")) == [("5", False), ("7", False)]
    assert prompts(chat)[1].count("functions.add to=assistant") == 2


def test_a_runaway_ends(saying):  # noqa: F811
    chat = saying(*[ADD] * (TOOL_REPLIES + 1), tools=[add])
    events = list(chat.send("go"))
    assert len(results(events)) == TOOL_REPLIES
    assert events[-1].reason == "tool_limit"
    assert chat.settled_messages() == chat.messages


def test_a_call_that_is_not_allowed_is_not_made_and_the_model_is_told(saying):  # noqa: F811
    asked = []

    def confirm(tool, call):
        asked.append((tool.name, call.arguments))
        return False

    chat = saying(ADD, ANSWER, tools=[add], confirm=confirm)
    assert results(chat.send("go")) == [("Error: the user did not allow this call.", True)]
    assert asked == [("add", {"a": 2, "b": 3})]


def test_a_trusted_tool_needs_nobodys_consent(saying):  # noqa: F811
    tool = Tool(Namespace("python", "d"), lambda arguments, stop: "ok", "test", trusted=True)
    call = "<|channel|>analysis to=python code<|message|>1<|call|>"
    chat = saying(call, ANSWER, tools=[tool], confirm=lambda tool, call: False)
    assert results(chat.send("go")) == [("ok", False)]


def test_a_turn_cancelled_in_a_tool_is_forgotten(saying):  # noqa: F811
    def wait(seconds: int) -> str:
        time.sleep(seconds)
        return ""

    chat = saying(FINAL + "Hi.<|return|>", CALL.format("wait", '{"seconds": 5}'), ANSWER, tools=[wait])
    list(chat.send("hello"))
    before = list(chat.messages)
    events = chat.send("go")
    began = time.monotonic()
    for event in events:
        if isinstance(event, ToolCall):
            threading.Timer(0.1, chat.cancel).start()
    assert event.reason == "cancelled"
    assert time.monotonic() - began < 4
    assert chat.messages == before
    assert said(chat.send("again"), Text) == "Done."


@pytest.mark.parametrize("at", ["tool", "answer"])
def test_a_cancelled_turn_keeps_what_the_user_saw_and_no_call_without_its_result(saying, at):  # noqa: F811
    preamble = "<|channel|>commentary<|message|>I will add.<|end|><|start|>assistant"
    chat = saying(preamble + ADD, THINK + "Hm, five." + NEXT + ANSWER, ANSWER, tools=[add])
    stop_at = ToolResult if at == "tool" else Thought
    events = chat.send("go")
    for event in events:
        if isinstance(event, stop_at):
            events.close()
    assert [str(message.content) for message in chat.messages] == ["go", "I will add."]
    assert said(chat.send("again"), Text) == "Done."


def test_a_reply_that_also_calls_a_declared_function_is_handed_out(saying):  # noqa: F811
    declared = {"name": "ask", "parameters": {"type": "object", "properties": {}}}
    unended = ADD.removesuffix("<|call|>") + "<|end|><|start|>assistant"
    chat = saying(unended + CALL.format("ask", "{}"), ANSWER, tools=[add], functions=[declared])
    events = list(chat.send("go"))
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [call.name for call in calls] == ["add", "ask"]
    assert events[-1].reason == "tool_calls"
    list(chat.send_tool_result(calls[0], "5"))
    assert said(chat.send_tool_result(calls[1], "yes"), Text) == "Done."


def test_a_long_result_loses_its_middle(saying):  # noqa: F811
    def much() -> str:
        return "a" + "-" * 10 * MOST_CHARACTERS + "z"

    chat = saying(CALL.format("much", "{}"), ANSWER, tools=[much])
    ((text, _),) = results(chat.send("go"))
    assert (text[0], text[-1]) == ("a", "z")
    assert f"[{9 * MOST_CHARACTERS + 2:,} characters left out]" in text
    assert len(text) < MOST_CHARACTERS + 60


def test_two_tools_of_one_name_are_refused(saying):  # noqa: F811
    with pytest.raises(UsageError, match="two functions 'add'"):
        saying(ANSWER, tools=[add], functions=[{"name": "add"}])


def test_replies_are_held_to_the_tools_there_are(saying):  # noqa: F811
    chat = saying(ANSWER, tools=[add, Tool(Namespace("python", "d"), lambda arguments, stop: "", "test")])
    grammar = chat._reply_grammar()
    assert '"commentary to=functions.add"' in grammar.lark
    assert '"analysis to=python"' in grammar.lark
    assert grammar.warnings == ()
