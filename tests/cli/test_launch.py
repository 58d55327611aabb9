"""``gptoss-mac launch``: how the three programs are started, with stand-ins for them. ``make clients`` has the real."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from tests.support.served import ROOT, serving

TELL = """#!{python}
import json, os, sys
told = {{"arguments": sys.argv[1:], "variables": dict(os.environ)}}
if "-c" in sys.argv:  # Codex is given a file that is gone when it has ended
    path = next(one for one in sys.argv if one.startswith("model_catalog_json="))
    told["catalogue"] = json.load(open(json.loads(path.partition("=")[2])))
print(json.dumps(told))
sys.exit(7)
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with programs of these names, which tell how they were started."""
    folder = tmp_path_factory.mktemp("programs")
    for name in ("codex", "claude", "opencode"):
        (folder / name).write_text(TELL.format(python=sys.executable))
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.fixture(scope="module")
def server():
    with serving("--model", "tiny", "--api-key", "sesame") as process:
        yield process


def launched(programs, home, *arguments):
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GPTOSS_MAC_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gptoss_mlx.cli", "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def told(programs, home, *arguments):
    done = launched(programs, home, *arguments)
    assert done.returncode == 7, done.stderr  # the program's own
    return json.loads(done.stdout)


def test_codex_gets_a_provider_and_a_catalogue(server, programs):
    found = told(programs, server.home, "codex", "--", "exec", "-m", "x")
    assert found["arguments"][-3:] == ["exec", "-m", "x"]
    settings = dict(one.split("=", 1) for one in found["arguments"][1:-3:2])
    assert json.loads(settings["model_providers.gptoss-mac.base_url"]) == f"{server.url}/v1"
    assert json.loads(settings["model_provider"]) == "gptoss-mac"
    assert found["variables"][json.loads(settings["model_providers.gptoss-mac.env_key"])] == "sesame"
    assert "sesame" not in str(found["arguments"])
    (model,) = found["catalogue"]["models"]
    assert model["slug"] == "tiny" == json.loads(settings["model"])
    assert model["context_window"] == 131_072


def test_claude_is_pointed_at_it_by_what_outranks_its_own_settings(server, programs):
    found = told(programs, server.home, "claude", "--", "-p", "hi")
    assert found["arguments"][0] == "--settings"
    assert found["arguments"][2:] == ["-p", "hi"]
    settings = json.loads(found["arguments"][1])["env"]
    assert settings["ANTHROPIC_BASE_URL"] == found["variables"]["ANTHROPIC_BASE_URL"] == server.url
    assert settings["ANTHROPIC_MODEL"] == settings["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "tiny"
    assert settings["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "131072"
    assert found["variables"]["ANTHROPIC_AUTH_TOKEN"] == "sesame"
    assert "sesame" not in str(found["arguments"])


def test_opencode_gets_a_whole_configuration_in_a_variable(server, programs):
    found = told(programs, server.home, "opencode", "--", "run", "hi")
    assert found["arguments"] == ["run", "hi"]
    config = json.loads(found["variables"]["OPENCODE_CONFIG_CONTENT"])
    options = config["provider"]["gptoss-mac"]["options"]
    assert options == {"baseURL": f"{server.url}/v1", "apiKey": "sesame"}
    assert config["model"] == config["small_model"] == "gptoss-mac/tiny"
    refused = server.get("/v1/models", headers={"authorization": "Bearer wrong"})
    assert refused.status_code == 401
    assert "sesame" not in "".join(server.said)


def test_without_a_server_one_is_started_and_ended_again(programs, tmp_path):
    found = told(programs, tmp_path, "claude", "--model", "tiny")
    url = found["variables"]["ANTHROPIC_BASE_URL"]
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5).close()
    assert not (tmp_path / "model.socket").exists()


def test_a_program_that_is_not_there_and_a_model_that_is_not_there_are_said_in_one_line(programs, tmp_path):
    missing = subprocess.run(
        [sys.executable, "-m", "gptoss_mlx.cli", "launch", "codex"],
        capture_output=True,
        text=True,
        env={"PATH": "", "GPTOSS_MAC_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert missing.returncode == 2
    assert missing.stderr == "gptoss-mac: codex is not installed; run: npm install -g @openai/codex\n"
    done = launched(programs, tmp_path, "codex", "--model", "nothing-of-that-name")
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
