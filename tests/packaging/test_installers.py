"""What pip, uv and pipx install is the whole program, and what they remove leaves only the program's home."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.packaging.conftest import PROJECT, run

VERSION = PROJECT["version"]


@pytest.fixture
def person(wheel, tmp_path):
    """A user's variables: a home of their own, where each of the installers puts programs on the PATH. The cache of uv,
    which pipx uses too, is elsewhere."""
    home = tmp_path / "home"
    bin = home / ".local/bin"
    bin.mkdir(parents=True)
    places = {"HOME": home, "PATH": f"{bin}:/usr/bin:/bin", "UV_CACHE_DIR": wheel.parent / "uv"}
    return {name: str(place) for name, place in places.items()} | {"XDG_CACHE_HOME": "", "GPTOSS_MAC_HOME": ""}


def tool(name):
    """Return a program that `make test-wheel` installs."""
    found = shutil.which(name, path=f"{os.environ.get('INSTALL_VENV', '')}/bin")
    if found is None:
        pytest.skip(f"{name} is not installed; run: make test-wheel")
    return found


def works(person):
    """Use the program as a person would, from a shell that finds it on the PATH."""

    def shell(line):
        return run("bash", "-c", line, cwd=person["HOME"], **person)

    assert shell("gptoss-mac --version") == f"gptoss-mac {VERSION}\n"
    assert "42" in shell("gptoss-mac run --model tiny --temperature 0 'What is 12 + 30?'")
    assert "5" in shell("echo 'What is 2 + 3?' | gptoss-mac chat --model tiny --temperature 0")
    assert "tiny" in shell("gptoss-mac models")
    assert "complete" in shell('eval "$(gptoss-mac completion bash)"; complete -p gptoss-mac')
    completed = shell("COMP_WORDS='gptoss-mac mod' COMP_CWORD=1 _GPTOSS_MAC_COMPLETE=complete_bash gptoss-mac")
    assert completed.split() == ["models"]


def serves(person):
    server = subprocess.Popen(
        ["bash", "-c", "exec gptoss-mac serve --model tiny --port 0"],
        cwd=person["HOME"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | person,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"at (http\S+)/v1", line):
                break
        else:
            pytest.fail("".join(said))
        asked = {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "temperature": 0}
        assert "42" in httpx2.post(f"{found[1]}/v1/chat/completions", json=asked, timeout=60).text
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 128 + signal.SIGTERM


def left(person):
    """Return what is left of the program in the home, without what it keeps there by intent."""
    home = Path(person["HOME"])
    found = {path.relative_to(home) for path in home.rglob("*gptoss*")}
    return {path for path in found if path.parts[:2] != (".cache", "gptoss-mac")}


@pytest.mark.slow
def test_pip_installs_the_program_and_with_an_extra_the_server(wheel, person, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    person["PATH"] = f"{venv}/bin:{person['PATH']}"
    pip = (str(venv / "bin/python"), "-m", "pip")
    run(*pip, "install", wheel, **person)
    works(person)
    done = subprocess.run(
        [venv / "bin/gptoss-mac", "serve", "--model", "tiny"], env=os.environ | person, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "pip install 'gptoss-mac[serve]'" in done.stderr
    run(*pip, "install", f"{wheel}[serve]", **person)
    serves(person)
    run(*pip, "uninstall", "--yes", "gptoss-mac", **person)
    assert not list(venv.rglob("*gptoss*"))
    assert left(person) == set()


@pytest.mark.slow
def test_uv_installs_a_tool_that_it_can_remove(wheel, person):
    uv = tool("uv")
    run(uv, "tool", "install", "--python", sys.executable, f"gptoss-mac[serve] @ {wheel.as_uri()}", **person)
    works(person)
    serves(person)
    run(uv, "tool", "uninstall", "gptoss-mac", **person)
    assert left(person) == set()


@pytest.mark.slow
def test_pipx_installs_an_application_that_it_can_remove(wheel, person):
    pipx = tool("pipx")
    run(pipx, "install", "--python", sys.executable, f"{wheel}[serve]", **person)
    works(person)
    serves(person)
    run(pipx, "uninstall", "gptoss-mac", **person)
    assert left(person) == {Path(".local/share/pipx/venvs/.gptoss-mac.lock")}  # which is pipx's, and empty
