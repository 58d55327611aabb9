"""What is made of single odd headers: role, recipient, channel and content type, and where the text begins."""

import pytest

from gptoss_mlx.harmony import MessageEnd, StreamParser
from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode

BODY = [MESSAGE, "{}", CALL]
# Pieces behind `<|start|>assistant`; then kind, recipient, channel, content type and text of each message.
CASES = [
    # Markers spelled out in ordinary text, in a header that is otherwise whole.
    (
        [CHANNEL, "commentary to=functions.f<|channel|>analysis<|constrain|>json", *BODY],
        [("call", "functions.f", "analysis", "json", "{}")],
    ),
    # The last channel is the one that was meant; one without its marker is a channel too.
    ([CHANNEL, "analysis", CHANNEL, "final", MESSAGE, "4", RETURN], [("answer", None, "final", None, "4")]),
    ([END, START, "assistantanalysis", MESSAGE, "4", END], [("thought", None, "analysis", None, "4")]),
    ([CHANNEL, "Final", MESSAGE, "4", RETURN], [("answer", None, "Final", None, "4")]),
    ([CHANNEL, "comments to=functions.f", *BODY], [("call", "functions.f", "comments", None, "{}")]),
    ([CHANNEL, " to=functions.f", *BODY], [("call", "functions.f", None, None, "{}")]),
    # Recipients: without `to=`, behind a blank, in front of arguments, twice.
    (
        [CHANNEL, "commentary functions.f ", CONSTRAIN, "json", *BODY],
        [("call", "functions.f", "commentary", "json", "{}")],
    ),
    ([CHANNEL, "commentary to= functions.f", *BODY], [("call", "functions.f", "commentary", None, "{}")]),
    (
        [" to=functions.f", CHANNEL, "commentary to=functions.f", *BODY],
        [("call", "functions.f", "commentary", None, "{}")],
    ),
    ([" to=functions.f", CONSTRAIN, "json", *BODY], [("call", "functions.f", None, "json", "{}")]),
    # Without <|message|>: what looks like a header is one, and the rest is text, exactly.
    ([CHANNEL, "commentary to=functions.f", CALL], [("call", "functions.f", "commentary", None, "")]),
    ([CHANNEL, "commentary to=functions.f", END], [("call", "functions.f", "commentary", None, "")]),
    ([CHANNEL, "final", RETURN], []),
    (["assistants write <|channel|> so.", RETURN], [("answer", None, None, None, "assistants write <|channel|> so.")]),
    ([CHANNEL, "final I go to=functions.f", RETURN], [("answer", None, "final", None, "I go to=functions.f")]),
    ([CHANNEL, "Finally done", RETURN], [("answer", None, None, None, "Finally done")]),
    # A header given up for another one makes no message, though it named a tool.
    ([" to=functions.f", START, "assistant to=functions.g", *BODY], [("call", "functions.g", None, None, "{}")]),
    # A marker amid a body begins the next message only if it is the assistant's; a thought does not become an answer.
    (
        [CHANNEL, "analysis", MESSAGE, "a", CHANNEL, " b c", END],
        [("thought", None, "analysis", None, "a"), ("thought", None, "analysis", None, "b c")],
    ),
    ([END, START, "user", MESSAGE, "a", CHANNEL, "b", END], [("other", None, None, None, "ab")]),
    ([MESSAGE, "a", MESSAGE, CONSTRAIN, "b", RETURN], [("answer", None, None, None, "ab")]),
    # Not stopped: text without a single marker is an answer, half a header is nothing.
    (["Hello"], [("answer", None, None, None, "Hello")]),
    ([CHANNEL, "final"], []),
    ([END, START, "assistant Hello"], []),
]


@pytest.mark.parametrize(("pieces", "expected"), CASES, ids=lambda value: "")
def test_odd_header(pieces, expected, published):
    parser = StreamParser(published)
    events = parser.feed(encode(pieces, published.special, published.encode)) + parser.finish()
    ends = [event for event in events if isinstance(event, MessageEnd)]
    assert [
        (end.kind, end.message.recipient, end.message.channel, end.message.content_type, end.message.content)
        for end in ends
    ] == expected
