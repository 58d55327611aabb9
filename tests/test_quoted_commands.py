"""Every command quoted in a message, the help or a document is accepted by its program."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
import typer

from gptoss_mlx.cli.commands import app
from tests.support.quoted_commands import ROOT, all_commands, commands_of, unmarked, unread

COMMANDS = all_commands()


def parameters(program, words):
    """Return the parameters that ``program`` (of Click or Typer) parses from the words. Raises if it refuses them."""
    command = program
    context = None
    name = ""
    while hasattr(command, "commands"):
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        name, command, words = command.resolve_command(context, list(words))
        assert command is not None, f"no command {name!r}"
        if not words or words == ["--help"]:  # the command is only named
            return {}
    return command.make_context(name, list(words), parent=context).params


def check_gptoss_mac(*words):
    if words == ("--help",):
        return
    parameters(typer.main.get_command(app), words)


def check_hf(*words):
    from huggingface_hub.cli.hf import app as hf

    understood = parameters(hf, words)
    assert not understood.get("filenames"), "it would fetch this one file"


def check_pip(*words):
    from pip._internal.commands import create_command

    create_command(words[0]).parse_args(list(words[1:]))


def check_make(*targets):
    command = ["make", "-n", f"PYTHON={sys.executable}", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_python(option, module, *_):
    assert option == "-m"
    if module.split(".")[0] == "gpt_oss" and not importlib.util.find_spec("gpt_oss"):
        pytest.skip("OpenAI's gpt-oss is not installed")
    assert importlib.util.find_spec(module), f"no module {module}"


def check_git(*words):
    if words == ("diff",):
        subprocess.run(["git", "diff", "--stat"], check=True, capture_output=True, cwd=ROOT)
        return
    if words[0] == "clone":
        assert words[1:] == ("https://github.com/openai/gpt-oss",)
        return
    assert words == ("lfs", "pull")
    if not shutil.which("git-lfs"):
        pytest.skip("git-lfs is not installed")
    subprocess.run(["git", *words, "--help"], check=True, capture_output=True)


def check_jq(*words):
    if not shutil.which("jq"):
        pytest.skip("jq is not installed")
    done = subprocess.run(["jq", *words], input='[{"a": 1}, 2]', capture_output=True, text=True, check=True)
    assert done.stdout == '{"a":1}\n2\n'


CHECKS = {
    "gptoss-mac": check_gptoss_mac,
    "hf": check_hf,
    "pip": check_pip,
    "make": check_make,
    "python": check_python,
    "git": check_git,
    "jq": check_jq,
}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.file}: {' '.join(command.words)}")
def test_a_quoted_command_is_understood(command):
    program, *words = command.words
    if words:
        CHECKS[program](*words)


def test_no_message_quotes_a_command_that_is_not_checked():
    assert unmarked() == []


def test_every_example_is_read():
    assert unread() == []


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("git diff | A=1 gptoss-mac run 'a | b' > out.txt", [("git", "diff"), ("gptoss-mac", "run", "a | b")]),
        ("$ gptoss-mac chat --continue  # the last one", [("gptoss-mac", "chat", "--continue")]),
        ("ls && .venv/bin/gptoss-mac doctor 2>&1", [("gptoss-mac", "doctor")]),
        ('gptoss-mac run "one', []),
    ],
)
def test_a_line_is_read_as_a_shell_does(line, commands):
    assert list(commands_of(line)) == commands


def test_every_program_is_met():
    assert {command.words[0] for command in COMMANDS} == set(CHECKS)


@pytest.mark.parametrize(
    ("check", "command"),
    [
        (check_hf, "download openai/gpt-oss-20b --exclude original/* metal/* --local-dir x"),
        (check_hf, "download openai/gpt-oss-20b --excluded x"),
        (check_gptoss_mac, "chat --modell tiny"),
        (check_gptoss_mac, "chats"),
        (check_gptoss_mac, "logs remove x"),
        (check_make, "chats"),
        (check_pip, "install --excluded x"),
        (check_python, "-m tests.reports.nothing"),
    ],
)
def test_a_wrong_command_is_found(check, command):
    with pytest.raises((Exception, SystemExit)):
        check(*command.split())
