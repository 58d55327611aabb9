"""Odd headers, one at a time: which role, recipient, channel, content type and text the parser reads."""

import pytest

from gptoss_mlx.harmony import MessageEnd, StreamParser
from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode

BODY = [MESSAGE, "{}", CALL]
CASES = [
    # Ordinary text spells markers, in a header that is otherwise complete.
    (
        [CHANNEL, "commentary to=functions.f<|channel|>analysis<|constrain|>json", *BODY],
        [("call", "functions.f", "analysis", "json", "{}")],
    ),
    # The last channel counts. A channel without its marker counts too.
    ([CHANNEL, "analysis", CHANNEL, "final", MESSAGE, "4", RETURN], [("answer", None, "final", None, "4")]),
    ([END, START, "assistantanalysis", MESSAGE, "4", END], [("thought", None, "analysis", None, "4")]),
    ([CHANNEL, "Final", MESSAGE, "4", RETURN], [("answer", None, "Final", None, "4")]),
    ([CHANNEL, "comments to=functions.f", *BODY], [("call", "functions.f", "comments", None, "{}")]),
    ([CHANNEL, " to=functions.f", *BODY], [("call", "functions.f", None, None, "{}")]),
    # The recipient stands without `to=`, after a blank, or twice.
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
    # <|message|> is missing: what looks like a header is one, and the rest is text, unchanged.
    ([CHANNEL, "commentary to=functions.f", CALL], [("call", "functions.f", "commentary", None, "")]),
    ([CHANNEL, "commentary to=functions.f", END], [("call", "functions.f", "commentary", None, "")]),
    ([CHANNEL, "final", RETURN], []),
    (["assistants write <|channel|> so.", RETURN], [("answer", None, None, None, "assistants write <|channel|> so.")]),
    ([CHANNEL, "final I go to=functions.f", RETURN], [("answer", None, "final", None, "I go to=functions.f")]),
    ([CHANNEL, "Finally done", RETURN], [("answer", None, None, None, "Finally done")]),
    # A header that another header replaces makes no message, even if it names a tool.
    ([" to=functions.f", START, "assistant to=functions.g", *BODY], [("call", "functions.g", None, None, "{}")]),
    # A channel marker inside a body begins the next message only after an assistant's. A thought stays a thought.
    (
        [CHANNEL, "analysis", MESSAGE, "a", CHANNEL, " b c", END],
        [("thought", None, "analysis", None, "a"), ("thought", None, "analysis", None, "b c")],
    ),
    ([END, START, "user", MESSAGE, "a", CHANNEL, "b", END], [("other", None, None, None, "ab")]),
    ([MESSAGE, "a", MESSAGE, CONSTRAIN, "b", RETURN], [("answer", None, None, None, "ab")]),
    # Generation ended early: text without any marker is an answer, an incomplete header is nothing.
    (["Hello"], [("answer", None, None, None, "Hello")]),
    ([CHANNEL, "final"], []),
    ([END, START, "assistant Hello"], []),
]
"""Pieces after `<|start|>assistant`; then kind, recipient, channel, content type and text of each message."""


@pytest.mark.parametrize(("pieces", "expected"), CASES, ids=lambda value: "")
def test_odd_header(pieces, expected, published):
    parser = StreamParser(published)
    events = parser.feed(encode(pieces, published.special, published.encode)) + parser.finish()
    ends = [event for event in events if isinstance(event, MessageEnd)]
    assert [
        (end.kind, end.message.recipient, end.message.channel, end.message.content_type, end.message.content)
        for end in ends
    ] == expected
