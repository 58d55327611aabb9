"""The commands and the Python in README work, and its lists are complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx import errors
from gptoss_mlx.cli.signals import ENDING, code
from tests.support.cli_reference import README, with_reference

ROOT = README.parent
TEXT = README.read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def commands():
    return [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment with ``gptoss-mac`` on the PATH and an empty home."""
    folder = tmp_path_factory.mktemp("readme")
    script = folder / "gptoss-mac"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m gptoss_mlx.cli "$@"\n')
    script.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "GPTOSS_MAC_HOME": str(folder / "home")}


def test_the_command_line_reference_is_what_the_commands_say():
    assert with_reference(TEXT) == TEXT, "run `make readme`"


@pytest.mark.parametrize("command", commands())
def test_a_command_shown_runs(environment, command):
    done = subprocess.run(command, shell=True, input="", capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if " run " in command:
        question = re.search(r"(\d+) ([+-]) (\d+)", command)
        a = int(question[1])
        sign = question[2]
        b = int(question[3])
        assert str(a + b if sign == "+" else a - b) in done.stdout


def test_the_python_shown_runs_without_a_command_before_it(environment, tmp_path):
    environment = environment | {"GPTOSS_MAC_HOME": str(tmp_path)}
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "405" in done.stdout


def test_every_exit_code_is_documented():
    listed = {int(number) for number in re.findall(r"(\d+) [a-z]", TEXT.split("Exit codes:")[1].split("\n\n")[0])}
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert {error.exit_code for error in classes} | {code(number) for number in ENDING} <= listed


def test_files_linked_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or Path(ROOT, target).exists(), target
