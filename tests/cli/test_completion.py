"""Completion in bash, zsh and fish, by the shells themselves where they are installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import run_cli

ROOT = Path(__file__).parent.parent.parent
# How each shell says what it completes a line to. zsh has no such way without a terminal, so it is asked what it would
# have been given.
SHELLS = {
    "bash": 'eval "$(gptoss-mac completion bash)"\nCOMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n'
    '_gptoss_mac_completion gptoss-mac; printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": 'autoload -Uz compinit; compinit -u -d "$HOME/dump"; eval "$(gptoss-mac completion zsh)"\n'
    '_describe() {{ shift; print -rl -- ${{(P)@[-1]}} }}; _arguments() {{ print -rl -- "$@" }}\n'
    "words=({line}); CURRENT=${{#words}}; _gptoss_mac_completion",
    "fish": 'gptoss-mac completion fish | source; complete -C "{line}"',
}


@pytest.fixture
def program(tmp_path):
    """A folder with ``gptoss-mac`` in it, and a home with a template."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "gptoss-mac"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m gptoss_mlx.cli "$@"\n')
    script.chmod(0o755)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "commit.toml").write_text("")
    return folder


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_options_and_what_they_take(program, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = os.environ | {
        "PATH": f"{program}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "GPTOSS_MAC_HOME": str(tmp_path),
    }
    options = [("gptoss-mac run --mod", "--model")] if shell == "bash" else []
    for line, expected in (*options, ("gptoss-mac run -t co", "commit")):
        script = SHELLS[shell].format(line=line)
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, env=environment)
        assert expected in done.stdout, (line, done.stdout, done.stderr)


def test_the_version_is_printed():
    code, out, err = run_cli("--version")
    assert (code, out, err) == (0, "gptoss-mac 0.1.0\n", "")
