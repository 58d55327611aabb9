"""``gptoss-mac run`` goes on with conversations, takes settings from templates, and says that an answer was cut off."""

import json

import pytest

from tests.support.checkpoints import SMALL
from tests.support.cli import run_cli
from tests.support.models import random_model

OPTIONS = "--max-tokens", 12, "--seed", 9, "--prefix-disk", "off"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("run"), SMALL, seed=31).folder.path


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return lambda *arguments: run_cli("run", "-m", folder, *arguments, *OPTIONS)


def kept(name):
    code, out, _ = run_cli("logs", "export", name)
    assert code == 0
    return json.loads(out)


def asked(name):
    return [message["content"] for message in kept(name)["messages"] if message["role"] == "user"]


def test_an_answer_that_is_cut_off_is_printed_said_and_has_its_own_exit_code(run):
    code, out, err = run("hi")
    assert code == 13
    assert out.strip()
    assert err == "gptoss-mac: the answer was cut off after 12 tokens; raise --max-tokens\n"


def test_a_conversation_is_continued_with_its_settings(run):
    run("one", "-s", "Be brief.", "--temperature", 0, "--reasoning", "low")
    run("two", "-c")
    run("three", "-c", "--system", "Be long.", "--temperature", 1)
    assert asked("1") == ["one", "two", "three"]
    now = kept("1")
    assert (now["instructions"], now["reasoning"], now["temperature"]) == ("Be long.", "low", 1)
    assert run("four")[0] == 13
    assert asked("2") == ["four"], "without -c it is a new one"


def test_run_goes_on_with_the_conversation_of_a_name_also_a_chats(run, folder):
    run("one", "--session", "talk")
    run("other")
    run("two", "--session", "talk")
    assert asked("talk") == ["one", "two"]


def test_there_must_be_something_to_go_on_with_and_a_place_to_keep_it(run):
    code, out, err = run("hi", "-c")
    assert (code, out) == (4, "")
    assert "no conversation to resume" in err
    assert run("hi", "-c", "--no-log")[0] == 2
    assert run("hi", "--session", "12")[0] == 2


def test_a_template_gives_what_the_options_do_not(run, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "t.toml").write_text('prompt = "<{input}>"\nsystem = "S"\nreasoning = "high"\n')
    run("one", "-t", "t", "--reasoning", "low")
    now = kept("1")
    assert (asked("1"), now["instructions"], now["reasoning"]) == (["<one>"], "S", "low")
    assert run("one", "-t", "no-such")[0] == 2


def test_a_file_is_attached(run, tmp_path):
    (tmp_path / "a.txt").write_text("content")
    run("sum up", "-f", tmp_path / "a.txt")
    assert asked("1") == [f"{tmp_path}/a.txt:\n```\ncontent\n```\n\nsum up"]
