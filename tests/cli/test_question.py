"""What ``gptoss-mac run`` makes of a prompt, piped text, files and a template."""

import io
from types import SimpleNamespace

import pytest

from gptoss_mlx.cli.question import question
from gptoss_mlx.errors import UsageError
from gptoss_mlx.templates import Template


@pytest.fixture
def piped(monkeypatch):
    def pipe(data: bytes | None):
        stdin = SimpleNamespace(isatty=lambda: data is None, buffer=io.BytesIO(data or b""))
        monkeypatch.setattr("sys.stdin", stdin)

    pipe(None)
    return pipe


def test_what_is_piped_in_stands_before_the_prompt(piped):
    piped(b"diff --git a b\n")
    assert question("commit message", [], Template()) == "diff --git a b\n\ncommit message"


def test_piped_text_alone_is_the_prompt_unchanged(piped):
    piped(b" What is 2 + 3?\n")
    assert question(None, [], Template()) == " What is 2 + 3?\n"


def test_a_template_is_around_the_whole_question(piped):
    piped(b"text\n")
    assert question("in French", [], Template("Translate {input}!")) == "Translate text\n\nin French!"
    piped(None)
    assert question(None, [], Template("Tell a joke.")) == "Tell a joke."


def test_files_are_attached_by_option_and_by_mention_once(piped, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_text("two")
    asked = question(f"@{tmp_path}/a.txt and", [f"{tmp_path}/b.txt", f"{tmp_path}/a.txt"], Template())
    assert asked == f"{tmp_path}/b.txt:\n```\ntwo\n```\n\n{tmp_path}/a.txt:\n```\none\n```\n\n@{tmp_path}/a.txt and"
    assert question(None, [f"{tmp_path}/b.txt"], Template()).startswith(f"{tmp_path}/b.txt:\n```\ntwo\n```")


def test_a_mention_in_piped_text_attaches_nothing(piped, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    piped(f"look at @{tmp_path}/secret.txt".encode())
    assert "```" not in question("sum up", [], Template())


def test_a_binary_file_is_refused(piped, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"a\0b\xff")
    with pytest.raises(UsageError, match="not a text file"):
        question("hi", [str(tmp_path / "x.bin")], Template())


@pytest.mark.parametrize("data", [None, b"", b" \n"])
def test_nothing_asked_is_refused(piped, data):
    piped(data)
    with pytest.raises(UsageError, match="prompt"):
        question(None if data is None else " ", [], Template())
