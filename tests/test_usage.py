"""Tokens a second of a message, when tools are waited for."""

import pytest

from gptoss_mlx.reply import Reply
from gptoss_mlx.usage import Meter


@pytest.fixture
def clock(monkeypatch):
    """Return a list that holds the time."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def metered(clock, *steps):
    """Return the usage of a message: a number is a wait for a tool, so long, and None a token, a second later."""
    meter = Meter(started=0.0)
    for step in steps:
        if step is None:
            clock[0] += 1
            meter.count_token()
            continue
        with meter.waiting():
            clock[0] += step
    count = steps.count(None)
    texts = dict.fromkeys(("content", "preamble", "text", "thought"), "")
    lists = dict.fromkeys(("parts", "messages", "calls", "unknown_calls"), ())
    counts = {"prompt_tokens": 7, "cached_tokens": 0, "completion_tokens": count, "thought_tokens": 0}
    meter.replies.append(Reply(**texts, **lists, **counts, reason="stop", stopped_by=None, cut_in_thought=False))
    return meter.usage()


def test_a_wait_for_a_tool_is_not_counted(clock):
    assert metered(clock, None, None, 100.0, None, None).tokens_per_second == 1


def test_neither_is_a_wait_that_no_token_follows(clock):
    """As when the user stops the reply at the question whether a call may be made."""
    assert metered(clock, None, None, None, 100.0).tokens_per_second == 1
