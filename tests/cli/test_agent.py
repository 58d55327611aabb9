"""``gptoss-mac serve --install`` and ``--uninstall``, with a stand-in for launchctl that remembers what was loaded."""

import os
import plistlib
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from gptoss_mlx.cli import agent
from gptoss_mlx.home import models_dir
from tests.support.cli import run_cli

FAKE = """#!/bin/sh
here="$(dirname "$0")"
echo "$@" >> "$here/calls"
case "$1" in
    print) test -e "$here/loaded" || { echo "Could not find service" >&2; exit 113; } ;;
    bootout) rm "$here/loaded" ;;
    bootstrap) test ! -e "$here/refuse" || { echo "Bootstrap failed: 125: not supported" >&2; exit 125; }
        test ! -e "$here/loaded" || { echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; }
        cp "$3" "$here/loaded" ;;
esac
"""


@pytest.fixture
def mac(tmp_path, monkeypatch):
    """A Mac's launchctl, with its calls in ``calls``, what it runs in ``loaded``, and a user's empty home. The library
    for this processor is where the suite has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "launchctl").write_text(FAKE)
    (folder / "launchctl").chmod(0o755)
    (tmp_path / "kept").mkdir()
    models_dir().mkdir(parents=True, exist_ok=True)
    (tmp_path / "kept/models").symlink_to(models_dir())
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    on(monkeypatch, "darwin", str(tmp_path / "no such program"))
    return folder


def on(monkeypatch, platform, program):
    """Let only the module under test see another platform, and the path of the program that was started."""
    there = SimpleNamespace(platform=platform, argv=[program], executable=sys.executable)
    monkeypatch.setattr("gptoss_mlx.cli.agent.sys", there)


def installed():
    return plistlib.loads(agent.agent_file().read_bytes())


def calls(mac):
    return [line.split()[0] for line in (mac / "calls").read_text().splitlines()]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_launchd_is_told_to_run_the_server_with_the_options_given_and_again_only_if_it_fails(mac, tmp_path):
    code, out, err = run_cli(
        *("serve", "--install", "--model", "tiny", "--port", free_port(), "--allow-origin", "http://a"),
        *("--allow-origin", "http://b", "--no-repeat-guard", "--context", "4096", "--yes"),
    )
    assert (code, out) == (0, "")
    told = installed()
    assert told == plistlib.loads((mac / "loaded").read_bytes())
    program, options = told["ProgramArguments"][:3], told["ProgramArguments"][3:]
    assert program == [sys.executable, "-m", "gptoss_mlx.cli"]
    assert options[:3] == ["serve", "--model", "tiny"]
    assert "--allow-origin http://a --allow-origin http://b" in " ".join(options)
    assert "--context 4096" in " ".join(options)
    assert options.count("--no-repeat-guard") == 1
    assert not {"--install", "--yes"} & {*options}
    assert (told["RunAtLoad"], told["KeepAlive"]) == (True, {"SuccessfulExit": False})
    assert told["StandardErrorPath"] == str(tmp_path / "kept/serve.log")
    assert told["StandardErrorPath"] in err
    assert f"bootstrap gui/{os.getuid()} {agent.agent_file()}" in (mac / "calls").read_text()


def test_what_launchd_is_told_serves_where_there_is_no_shell(mac, tmp_path):
    """Run it as launchd would: with its variables alone, in the root folder."""
    key = tmp_path / "key"
    key.write_text("secret\n")
    key.chmod(0o600)
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert run_cli("serve", "--install", "--model", "tiny", "--port", port, "--api-key-file", "key")[0] == 0
    told = installed()
    assert "secret" not in agent.agent_file().read_text()
    log = Path(told["StandardErrorPath"])
    with log.open("w") as errors:
        variables = {"HOME": str(tmp_path / "user"), "PATH": "/usr/bin:/bin", "PYTHONPATH": os.getcwd()}
        variables["XDG_CACHE_HOME"] = os.environ["XDG_CACHE_HOME"]
        server = subprocess.Popen(
            told["ProgramArguments"], env=variables | told["EnvironmentVariables"], cwd="/", stderr=errors
        )
    try:
        while not re.search(r"serving tiny at", log.read_text()):
            assert server.poll() is None, log.read_text()
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx2.get(url).status_code == 401
        assert httpx2.get(url, headers={"authorization": "Bearer secret"}).status_code == 200
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 128 + signal.SIGTERM


def test_a_second_installation_replaces_the_first(mac):
    for port in (free_port(), free_port()):
        assert run_cli("serve", "--install", "--model", "tiny", "--port", port)[0] == 0
    assert installed()["ProgramArguments"][-1] == str(port)
    assert calls(mac).count("bootout") == 1
    assert plistlib.loads((mac / "loaded").read_bytes()) == installed()


def test_uninstalling_ends_the_server_and_leaves_no_file(mac):
    assert run_cli("serve", "--install", "--model", "tiny", "--port", free_port())[0] == 0
    code, _, err = run_cli("serve", "--uninstall")
    assert (code, err) == (0, "the server has ended and is forgotten\n")
    assert not (mac / "loaded").exists()
    assert not agent.agent_file().exists()
    code, _, err = run_cli("serve", "--uninstall")
    assert (code, err) == (0, "no server is installed\n")


def test_what_launchd_refuses_leaves_no_file_for_the_next_login(mac):
    (mac / "refuse").touch()
    code, _, err = run_cli("serve", "--install", "--model", "tiny", "--port", free_port())
    assert code == 2
    assert "125: not supported" in err
    assert list(agent.agent_file().parent.iterdir()) == []


def test_the_command_that_was_typed_is_run_so_that_an_upgrade_is_followed(mac, tmp_path, monkeypatch):
    real = tmp_path / "Cellar/0.1.0/gptoss-mac"
    real.parent.mkdir(parents=True)
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    (tmp_path / "gptoss-mac").symlink_to(real)
    on(monkeypatch, "darwin", str(tmp_path / "gptoss-mac"))
    assert agent.description(["serve"])["ProgramArguments"] == [str(tmp_path / "gptoss-mac"), "serve"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--api-key", "secret"), "no place for a key"),
        (("--host", "0.0.0.0"), "needs a key"),
        (("--uninstall",), "exclude each other"),
        (("--api-key-file", "/no/such/file"), "cannot be read"),
        (("--model", "no such model"), "no model 'no such model'"),
    ],
)
def test_what_cannot_be_installed_is_refused_before_launchd_is_asked(mac, arguments, words):
    code, _, err = run_cli("serve", "--install", "--model", "tiny", *arguments)
    assert code in (2, 4)
    assert words in err
    assert not (mac / "calls").exists()
    assert not agent.agent_file().exists()


def test_a_port_that_is_taken_is_refused_here_not_in_a_log(mac):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run_cli("serve", "--install", "--model", "tiny", "--port", taken.getsockname()[1])
    assert code == 2
    assert "choose another --port" in err
    assert not agent.agent_file().exists()


def test_a_key_that_others_can_read_is_refused(tmp_path):
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o644)
    code, _, err = run_cli("serve", "--model", "tiny", "--api-key-file", key)
    assert code == 2
    assert "chmod 600" in err


@pytest.mark.parametrize("option", ["--install", "--uninstall"])
def test_elsewhere_it_says_that_this_is_for_macos(mac, monkeypatch, option):
    on(monkeypatch, "linux", "gptoss-mac")
    code, _, err = run_cli("serve", option)
    assert code == 2
    assert "are for macOS" in err
    assert not (mac / "calls").exists()
