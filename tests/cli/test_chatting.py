"""What a chat does with the lines a user types: each command, attachments, and what is kept."""

import io
import weakref
from contextlib import ExitStack, closing

import pytest
from rich.console import Console

from gptoss_mlx.cli import clipboard, options
from gptoss_mlx.cli.chatting import SUM_UP, Chat
from gptoss_mlx.cli.keeping import Keeper, open_history
from gptoss_mlx.cli.options import Loading
from gptoss_mlx.cli.tools import Consent
from gptoss_mlx.errors import GptOssError, ModelFolderError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.history import History
from tests.screen.terminal import lines_on
from tests.support import scripted
from tests.test_conversation import FINAL, NEXT, THINK, to_ids


def answered(text):
    return f"{THINK}Hm.{NEXT}{FINAL}{text}<|return|>"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


class Screen:
    def __init__(self, terminal=True):
        self.out = io.StringIO()
        self.console = Console(file=self.out, width=400, force_terminal=terminal, color_system=None)

    def lines(self):
        return lines_on(400, self.out.getvalue())


@pytest.fixture
def begin(tokenizer):
    """Begin chats whose model says given replies."""
    with ExitStack() as stack:

        def start(*replies, name=None, terminal=True, history=True, **options):
            ids = [to_ids(reply, tokenizer) for reply in replies]
            conversation = stack.enter_context(scripted.conversation(tokenizer, *ids, **options))
            nothing = {"close": lambda: None, "notice": lambda: None, "reusable": lambda context, prompt: 0}
            vars(conversation.runtime).update(nothing, row_memory=0)
            screen = Screen(terminal)
            keeper = Keeper(open_history(print) if history else None, print)
            if name is not None:
                keeper.resume(name)
            chat = Chat(conversation, screen.console, keeper, Loading(None), "fold", Consent(), interactive=terminal)
            stack.callback(chat.close)
            return chat, conversation, screen

        yield start


def said(conversation):
    return [message.content for message in conversation.messages if message.channel != "analysis"]


def kept():
    with closing(History()) as history:
        return {
            (one.name or one.id): [m["content"] for m in history.read(one.id).messages if m["channel"] != "analysis"]
            for one in history.listed(9)
        }


def test_a_message_is_answered_shown_and_kept(begin):
    chat, conversation, screen = begin(answered("**Four.**"))
    assert chat.take("2 + 2?")
    lines = screen.lines()
    assert lines[0].startswith("thought, 3 characters")
    assert lines[1] == "Four."
    assert " tokens/s " in lines[2]
    assert "context " in lines[2]
    assert said(conversation) == ["2 + 2?", "**Four.**"]
    assert kept() == {1: ["2 + 2?", "**Four.**"]}


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_a_command_and_only_without_a_user_the_chat(begin, monkeypatch, terminal):
    def interrupted(name, yes):
        raise KeyboardInterrupt

    chat, _, screen = begin(answered("4"), terminal=terminal)
    monkeypatch.setattr(options, "obtained", interrupted)
    if not terminal:
        with pytest.raises(KeyboardInterrupt):
            chat.take("/model 20b")
        return
    assert chat.take("/model 20b")
    assert screen.lines()[0] == "Stopped."
    assert chat.take("2 + 2?")


@pytest.mark.parametrize("command", ["/quit", "/exit", "/bye", " /quit "])
def test_it_ends(begin, command):
    chat, _, _ = begin()
    assert chat.take("")
    assert chat.take("   ")
    assert not chat.take(command)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/reasoning", "Reasoning: medium."),
        ("/system", "There are no instructions."),
        ("/model", "scripted"),
        ("/attach", "Nothing is attached."),
        ("/save", "It has no name yet."),
        ("/thinking", "Thought: fold."),
        ("/tokens", "context 5"),
        ("/retry", "There is no message to answer again."),
        ("/undo", "There is nothing to undo."),
        ("/copy", "There is no answer yet."),
        ("/compact", "There is nothing to sum up."),
        ("/nonsense", "Unknown command /nonsense; type /help"),
        ("/reasoning huge", "Unknown command /reasoning huge"),
        ("/new\x1b[2J", "Unknown command /new\\x1b[2J"),
    ],
)
def test_a_command_alone_shows_and_changes_nothing(begin, command, shown):
    chat, conversation, screen = begin()
    before = (conversation.reasoning, conversation.instructions, list(conversation.messages))
    assert chat.take(command)
    assert screen.lines()[0].startswith(shown)
    assert (conversation.reasoning, conversation.instructions, conversation.messages) == before
    assert kept() == {}


def test_settings_changed_after_the_last_reply_are_kept(begin):
    chat, _, _ = begin(answered("Yes."), name="demo")
    for line in ("Is it?", "/reasoning high", "/system Be brief."):
        chat.take(line)
    with closing(History()) as history:
        found = history.read(history.find("demo"))
    assert (found.reasoning, found.instructions) == ("high", "Be brief.")
    chat.take("/system off")
    with closing(History()) as history:
        assert history.read(history.find("demo")).instructions is None


def test_two_slashes_begin_a_message_with_one(begin):
    chat, conversation, _ = begin(answered("A folder."), answered("No comment."))
    chat.take("//usr/bin?")
    chat.take("What is // in C?")
    assert said(conversation)[::2] == ["/usr/bin?", "What is // in C?"]


def test_new_keeps_the_old_conversation_and_begins_another(begin):
    chat, conversation, _ = begin(answered("One."), answered("Two."), name="demo")
    for line in ("first", "/new", "second"):
        chat.take(line)
    assert said(conversation) == ["second", "Two."]
    assert kept() == {2: ["second", "Two."], "demo": ["first", "One."]}


def test_undo_and_retry(begin):
    chat, conversation, screen = begin(answered("One."), answered("Two."), answered("Three."))
    for line in ("first", "second", "/undo"):
        chat.take(line)
    assert said(conversation) == ["first", "One."]
    assert kept() == {1: ["first", "One."]}
    chat.take("/retry")
    assert said(conversation) == ["first", "Three."]
    assert kept() == {1: ["first", "Three."]}
    assert "Forgotten: second" in screen.lines()


def test_a_retry_that_comes_to_nothing_leaves_the_answer_before(begin):
    chat, conversation, _ = begin(answered("One."))
    chat.take("first")
    with pytest.raises(RuntimeError):  # the model has nothing more to say
        chat.take("/retry")
    assert said(conversation) == ["first", "One."]
    assert kept() == {1: ["first", "One."]}


def test_save_names_it_and_refuses_a_name_that_is_taken(begin):
    chat, _, screen = begin(answered("One."), answered("Two."))
    for line in ("first", "/save demo", "/new", "second", "/save demo", "/save"):
        chat.take(line)
    assert kept() == {2: ["second", "Two."], "demo": ["first", "One."]}
    assert screen.lines()[-3:] == ["there is a conversation 'demo' already", "It has no name yet.", ""]


def test_a_second_chat_on_an_open_conversation_goes_on_as_a_copy(begin, home, capsys, monkeypatch):
    chat, _, _ = begin(answered("One."), name="demo")
    chat.take("first")
    monkeypatch.setattr(History, "hold", lambda self, id: False)  # as from another process
    with closing(open_history(print)) as history:
        keeper = Keeper(history, print)
        copy = keeper.resume("demo")
    assert "demo is open in another chat; this one goes on as demo-2." in capsys.readouterr().out
    assert (copy.id, keeper.name) == (0, "demo-2")
    assert copy.messages[0]["content"] == "first"


def test_compact_goes_on_from_a_summary_and_keeps_what_was_summed_up(begin):
    chat, conversation, screen = begin(answered("One."), answered("They said one."), answered("Two."), name="demo")
    for line in ("first", "/compact", "second"):
        chat.take(line)
    assert said(conversation) == [SUM_UP, "They said one.", "second", "Two."]
    assert kept() == {"demo": [SUM_UP, "They said one.", "second", "Two."], 1: ["first", "One."]}
    assert any(line.startswith("The conversation goes on from this summary.") for line in screen.lines())


def test_a_summary_that_is_cut_off_changes_nothing(begin):
    chat, conversation, screen = begin(answered("One."), f"{THINK}Too long a thought")
    chat.take("first")
    conversation.max_tokens = 3
    chat.take("/compact")
    assert said(conversation) == ["first", "One."]
    assert "There is no summary, so nothing has changed." in screen.lines()


def test_a_context_that_is_nearly_full_is_said(begin):
    chat, conversation, screen = begin(answered("One."), answered("One."))
    before = len(conversation.next_prompt())
    chat.take("first")
    after = len(conversation.next_prompt())
    assert not any("are left" in line for line in screen.lines())
    conversation.runtime.config.max_position_embeddings = after + (after - before) + 5
    chat.take("first")
    assert "Only 5 tokens of the context are left. /compact goes on from a summary." in screen.lines()


def test_another_model_takes_over_when_the_present_one_is_gone(begin, monkeypatch):
    chat, conversation, screen = begin(answered("One."))
    chat.take("first")
    runtime = conversation.runtime
    loaded = []

    def load(loading):
        loaded.append((loading.model, present() is None))
        if loading.model == "broken":
            raise ModelFolderError("broken: damaged")
        return runtime

    present = weakref.ref(conversation)
    del conversation
    monkeypatch.setattr(options, "obtained", lambda name, yes: name)
    monkeypatch.setattr(options, "open_model", load)
    chat.take("/model other")
    chat.take("/model broken")
    assert loaded == [("other", True), ("broken", True), ("scripted", True)]
    assert [line for line in screen.lines() if "Model: " in line or "damaged" in line] == [
        "Model: scripted. With the next message the model reads all 69 tokens so far again.",
        "broken: damaged",
    ]
    assert kept() == {1: ["first", "One."]}


def test_files_go_with_a_message_and_binary_ones_do_not(begin, tmp_path):
    chat, conversation, screen = begin(answered("Seen."), answered("Seen."))
    (tmp_path / "a.txt").write_text("one\n```\ntwo")
    (tmp_path / "b.bin").write_bytes(b"\x00\xff\x80")
    chat.take(f"/attach {tmp_path}/a.txt")
    chat.take(f"/attach {tmp_path}/b.bin")
    chat.take(f"/attach {tmp_path}/none")
    chat.take(f"Sum up, and @{tmp_path}/a.txt. Ask @alice")
    name = f"{tmp_path}/a.txt"
    part = f"{name}:\n````\none\n```\ntwo\n````\n\n"
    assert said(conversation)[0] == f"{part}{part}Sum up, and @{name}. Ask @alice"
    text = "\n".join(screen.lines())
    assert f"attached {name}, 11 bytes" in text
    assert "b.bin: not a text file" in text
    assert "none: no such file" in text
    chat.take("Next")
    assert said(conversation)[2] == "Next", "an attachment goes with one message"
    chat.take(f"See @{tmp_path}/b.bin")
    assert len(said(conversation)) == 4, "a message whose file cannot be read is not sent"


def test_copy_uses_the_clipboards_program_or_the_terminal(begin, monkeypatch, capsys):
    chat, _, screen = begin(answered("Größe"))
    chat.take("first")
    monkeypatch.setattr(clipboard, "PROGRAMS", ())
    chat.take("/copy")
    assert "\x1b]52;c;R3LDtsOfZQ==\x07" in capsys.readouterr().out
    assert "Copied 5 characters, through the terminal." in screen.lines()


def test_what_cannot_be_done_ends_a_piped_chat_and_only_shows_at_a_terminal(begin):
    chat, _, screen = begin()
    assert chat.take("/attach /no/such/file")
    assert "/no/such/file: no such file" in screen.lines()
    piped, _, _ = begin(terminal=False)
    with pytest.raises(GptOssError):
        piped.take("/attach /no/such/file")


def test_a_chat_without_a_usable_history_goes_on(begin, home, capsys):
    (home / "said").mkdir()
    (home / "said" / "history.db").write_bytes(b"no database" * 200)
    chat, conversation, screen = begin(answered("One."), name="demo")
    assert "This conversation is not kept." in capsys.readouterr().out
    chat.take("first")
    chat.take("/save other")
    assert said(conversation) == ["first", "One."]
    assert "there is no history to keep it in" in screen.lines()


def test_a_conversation_that_cannot_be_read_does_not_end_the_chat(begin, monkeypatch, capsys):
    def unreadable(self, id):
        with self._explained("cannot be read"):
            raise ValueError("no JSON")

    chat, _, _ = begin(answered("One."), name="demo")
    chat.take("first")
    monkeypatch.setattr(History, "read", unreadable)
    keeper = Keeper(open_history(print), print)
    assert keeper.resume("demo") is None
    assert "cannot be read (damaged). This conversation is not kept." in capsys.readouterr().out


def test_a_disk_that_is_full_is_said_once_and_the_next_save_makes_up_for_it(begin, monkeypatch, capsys):
    chat, _, _ = begin(answered("One."), answered("Two."), answered("Three."))
    save = History.save

    def full(self, kept):
        with self._explained("cannot be written"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(History, "save", full)
    chat.take("first")
    chat.take("second")
    assert capsys.readouterr().out.count("No space left on device") == 1
    monkeypatch.setattr(History, "save", save)
    chat.take("third")
    assert kept() == {1: ["first", "One.", "second", "Two.", "third", "Three."]}
