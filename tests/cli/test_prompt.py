"""Typing into a chat, through prompt_toolkit's own pipe instead of a terminal."""

import sys

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from gptoss_mlx.cli.chat_commands import NAMES, values_of
from gptoss_mlx.cli.prompt import Prompt, _Words, edited, unquoted
from gptoss_mlx.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


def typed(*keys, default=""):
    """What ``read`` returns for each of these sequences of keys."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        prompt = Prompt(NAMES, values_of, lambda: "status")
        texts = []
        for sequence in keys:
            pipe.send_text(sequence)
            texts.append(prompt.read(default))
        return texts


@pytest.fixture(autouse=True)
def utf8(monkeypatch):
    monkeypatch.setattr(sys, "stdin", open("/dev/null", encoding="utf-8"))  # noqa: SIM115


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        (
            "\x1b[200~" + "\n".join(f"line {n}" for n in range(50)) + "\x1b[201~\r",
            "\n".join(f"line {n}" for n in range(50)),
        ),
        ('"""one\rtwo\r"""\r', "one\ntwo"),
        ('""""""\r', ""),
        ("日本語🙂e\x7f\x7fx\r", "日本語x"),
        ("wrong\x15right\r", "right"),
    ],
)
def test_keys_make_one_message(keys, text):
    assert typed(keys) == [text]


def test_the_history_is_recalled_by_this_chat_and_by_the_next():
    assert typed("one\r", "two\x1b\rlines\r", "\x1b[A\r") == ["one", "two\nlines", "two\nlines"]
    assert typed("\x10\x10\x10\r")[0] in ("one", "two\nlines")


def test_ctrl_c_discards_and_ctrl_d_ends():
    with pytest.raises(KeyboardInterrupt):
        typed("half a line\x03")
    with pytest.raises(EOFError):
        typed("\x04")


def completed(text):
    words = _Words(NAMES, lambda command: (*values_of(command), "demo") if command == "/save" else values_of(command))
    return {one.text for one in words.get_completions(Document(text), CompleteEvent(completion_requested=True))}


def test_tab_completes_commands_values_and_paths(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert completed("/re") == {"/reasoning", "/retry"}
    assert completed("/reasoning h") == {"high"}
    assert completed("/save d") == {"demo"}
    assert completed(f"see @{tmp_path}/no") == {"tes.txt"}
    assert completed(f"/attach {tmp_path}/no") == {"tes.txt"}
    assert completed("hello") == set()


def test_three_quotes_stand_around_a_text():
    assert unquoted('"""a\nb"""') == "a\nb"
    assert unquoted('say """a""" twice') == 'say """a""" twice'


def test_an_editor_gets_the_text_and_gives_it_back(tmp_path, monkeypatch):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho ', and more' >> \"$1\"\n")
    editor.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))
    assert edited("begun") == "begun, and more"
    monkeypatch.setenv("EDITOR", "false")
    with pytest.raises(UsageError, match="code 1"):
        edited("x")
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    with pytest.raises(UsageError, match="EDITOR"):
        edited("x")
