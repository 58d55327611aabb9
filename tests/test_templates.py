"""Templates that users keep."""

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.templates import Template, read_template, template_names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    folder = tmp_path / "templates"
    folder.mkdir()
    return folder


def test_a_template_has_a_prompt_and_settings(folder):
    (folder / "commit.toml").write_text('prompt = "Sum up: {input} ({input})"\nreasoning = "low"\ntemperature = 0\n')
    template = read_template("commit")
    assert template == Template("Sum up: {input} ({input})", reasoning="low", temperature=0)
    assert template.filled("a {b}") == "Sum up: a {b} (a {b})"
    assert template_names() == ["commit"]


@pytest.mark.parametrize(("prompt", "text", "filled"), [("p", "t", "p\n\nt"), ("p", "", "p"), ("", "t", "t")])
def test_what_is_asked_goes_behind_a_prompt_without_a_place_for_it(prompt, text, filled):
    assert Template(prompt).filled(text) == filled


def test_a_path_to_a_template_is_taken_and_its_name_is_not(folder, tmp_path):
    (tmp_path / "own.toml").write_text('system = "Be brief."')
    assert read_template(str(tmp_path / "own.toml")).system == "Be brief."
    with pytest.raises(UsageError, match=r"ends in \.toml"):
        read_template("../own")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'promt = "x"', "'promt' is unknown; a template has prompt, system"),
        (b"prompt = 3", "prompt is 3; it must be str"),
        (b"max_tokens = true", "max_tokens is True; it must be int"),
        (b'reasoning = "huge"', "use low, medium or high"),
        (b"prompt = ", "not TOML"),
        (b'prompt = "\xff"', "not TOML in UTF-8"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_its_reason(folder, content, said):
    (folder / "t.toml").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_template("t")


def test_a_missing_template_is_said_with_those_that_there_are(folder):
    (folder / "one.toml").write_text("")
    with pytest.raises(UsageError, match="no template 'two'; there are: one"):
        read_template("two")
