"""A kept conversation resumes as if the program had never ended, whether or not what was read can still be used."""

from contextlib import closing
from dataclasses import replace

import pytest

from gptoss_mlx import sessions
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.errors import SessionError, UsageError
from gptoss_mlx.events import Text
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.history import History
from gptoss_mlx.sampling import Sampling
from tests.support import scripted
from tests.support.checkpoints import SMALL
from tests.support.harmony_streams import encode
from tests.support.models import random_model

GREEDY = {"sampling": Sampling(temperature=0), "max_tokens": 40}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("sessions"), SMALL, seed=41)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("other"), SMALL, seed=42)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


def started(runtime, home):
    """Return the runtime as another process has it, which has read nothing yet."""
    return replace(runtime, prefixes=PrefixCache(1 << 30, Snapshots(BoundedFolder(home / "snapshots", 1 << 30))))


@pytest.fixture
def kept(runtime, home):
    """Save a conversation of two turns, longer than the window, as 'demo'. Return it."""
    chat = Conversation(started(runtime, home), date="2025-06-28", instructions="Be brief.", reasoning="high", **GREEDY)
    for said in ("one, two, three", "and then"):
        list(chat.send(said))
    save(chat)
    chat.runtime.prefixes.close()
    return chat


def save(chat):
    with closing(History()) as history:
        id = history.find("demo") or 0
        history.save(replace(sessions.kept(chat, "chat"), name="demo", id=id))


def read():
    with closing(History()) as history:
        return history.read(history.find("demo"))


def reopened(runtime, home):
    return sessions.reopened(read(), started(runtime, home), **GREEDY)


def test_a_reopened_conversation_reads_only_what_is_new_and_says_the_same(runtime, home, kept):
    chat = reopened(runtime, home)
    assert (chat.reasoning, chat.instructions, chat.date) == ("high", "Be brief.", "2025-06-28")
    assert chat.messages == kept.messages
    assert chat.to_read() == kept.to_read()
    warm = list(kept.send("more"))
    restored = list(chat.send("more"))
    assert chat.messages == kept.messages
    assert restored[-1].usage.cached_tokens == warm[-1].usage.cached_tokens > 128


def test_a_call_still_unanswered_is_not_kept(home):
    """A program that resumes the session cannot answer the call, and a prompt must hold no call without a result."""
    tokenizer = Tokenizer.bundled()
    marker = {name: [f"<|{name}|>"] for name in ("channel", "message", "end", "start", "call")}
    calling = [marker["channel"], "commentary to=functions.f", marker["message"], "{}"]
    said = [marker["channel"], "commentary", marker["message"], "One.", marker["end"], marker["start"], "assistant"]
    ids = encode(
        [*said, *calling, marker["end"], marker["start"], "assistant", *calling, marker["call"]],
        tokenizer.special,
        tokenizer.encode,
    )
    function = {"type": "function", "function": {"name": "f"}}
    with scripted.conversation(tokenizer, ids, functions=[function]) as chat:
        first, _, _ = (event for event in chat.send("?") if not isinstance(event, Text))
        chat.send_tool_result(first, "one")
        kept = [(message["role"], message["content"]) for message in sessions.kept(chat, "chat").messages]
        assert kept == [("user", "?"), ("assistant", "One."), ("assistant", "{}"), ("tool", "one")]
        assert len(chat.messages) == 5, "the conversation itself keeps its pending call"
        assert tokenizer.decode(chat.next_prompt()).count("to=functions.f") == 1, "nor does the cache wait for it"


def test_a_session_whose_snapshots_are_lost_is_read_again(runtime, home, kept):
    for path in (home / "snapshots").iterdir():
        path.write_bytes(b"")
    chat = reopened(runtime, home)
    events = list(chat.send("more"))
    assert events[-1].usage.cached_tokens == 0
    list(kept.send("more"))
    assert chat.messages == kept.messages


def test_snapshots_behind_the_transcript_are_still_used(runtime, home, kept):
    """As after a kill while they were written."""
    kept.runtime.prefixes.snapshots = None
    list(kept.send("third"))
    save(kept)
    chat = reopened(runtime, home)
    restored = list(chat.send("more"))
    assert restored[-1].usage.cached_tokens > 128
    list(kept.send("more"))
    assert chat.messages == kept.messages


def test_another_model_resumes_from_the_text(other, home, kept):
    chat = reopened(other, home)
    assert all(message.ids is None for message in chat.messages)
    assert [message.content for message in chat.messages] == [message.content for message in kept.messages]
    assert list(chat.send("more"))[-1].usage.cached_tokens == 0


@pytest.mark.parametrize("name", ["", " x", "x" * 65, "a\nb", "17"])
def test_names_that_cannot_be_told_from_numbers_or_be_shown_are_refused(name):
    with pytest.raises(UsageError):
        sessions.check_name(name)


def test_a_kept_conversation_cannot_carry_a_system_message(runtime, home, kept):
    damaged = replace(read(), messages=[{**read().messages[0], "role": "system"}])
    with pytest.raises(SessionError, match="damaged"):
        sessions.reopened(damaged, runtime)
