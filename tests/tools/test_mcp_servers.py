"""MCP servers as tools, over stdio and HTTP. The servers are made with the protocol's own SDK."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.events import ToolResult
from gptoss_mlx.tools.mcp_servers import Server, mcp_tools, read_config
from gptoss_mlx.tools.tool import Outcome, perform
from tests.test_conversation import CALL, FINAL, prompts, saying, tokenizer  # noqa: F401

ROOT = Path(__file__).parent.parent.parent
MODULE = ["-m", "tests.support.mcp_server"]


def never():
    return False


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Two servers, one of them over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, *MODULE, str(port)], cwd=ROOT, stderr=subprocess.DEVNULL)
    own = {"command": sys.executable, "args": MODULE, "cwd": str(ROOT), "env": {"SECRET": "s"}, "timeout": 3}
    servers = {"own": own, "web": {"url": f"http://127.0.0.1:{port}/mcp", "headers": {"X-A": "b"}, "trusted": True}}
    path = tmp_path_factory.mktemp("mcp") / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield path
    process.kill()
    process.wait(10)


@pytest.fixture(scope="module")
def tools(config):
    os.environ["NOT_GIVEN"] = "leaked"
    with mcp_tools(read_config(config)) as found:
        yield {tool.name: tool for tool in found}


def test_the_tools_of_all_servers_are_declared_under_their_names(tools):
    assert {"own_add", "own_what_is_this", "web_add", "web_what_is_this"} < set(tools)
    add = tools["own_add"]
    assert add.declared.description == "Add two numbers."
    assert add.declared.parameters["required"] == ["a", "b"]
    assert (add.source, add.trusted, tools["web_add"].trusted) == ("server own", False, True)


@pytest.mark.parametrize("server", ["own", "web"])
def test_a_call_is_made_and_what_fails_is_told(tools, server):
    assert perform(tools[f"{server}_add"], {"a": 2, "b": 3}, never) == Outcome("5")
    failed = perform(tools[f"{server}_what_is_this"], {"why": "no paper"}, never)
    assert failed.failed
    assert "no paper" in failed.text
    wrong = perform(tools[f"{server}_add"], {"a": "x"}, never)
    assert wrong.failed
    assert "valid" in wrong.text


def test_a_model_uses_them_in_its_turn(saying, tools):  # noqa: F811
    calls = [CALL.format("web_add", '{"a": 20, "b": 3}'), CALL.format("own_add", '{"a": 23, "b": 4}')]
    chat = saying(*calls, FINAL + "27.<|return|>", tools=list(tools.values()))
    assert [event.output for event in chat.send("go") if isinstance(event, ToolResult)] == ["23", "27"]
    assert "type own_add = (_: {" in prompts(chat)[0]


def test_a_server_gets_what_its_configuration_says_and_not_the_environment(tools):
    assert perform(tools["own_secret"], {}, never) == Outcome(f"s {ROOT} None")


def test_a_call_that_takes_too_long_or_is_cancelled_is_given_up(tools):
    began = time.monotonic()
    late = perform(tools["own_wait"], {"seconds": 20}, never)
    assert late.failed
    assert "time" in late.text.lower()
    assert perform(tools["web_wait"], {"seconds": 20}, lambda: time.monotonic() - began > 1.5) is None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (Server("x", command="no-such-program"), r"'x' \(no-such-program\) cannot be used"),
        (Server("x", command="false"), "cannot be used"),
        (Server("x", url="http://127.0.0.1:9/mcp"), "cannot be used"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(server, said):
    with pytest.raises(UsageError, match=said), mcp_tools([server]):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "no object 'mcpServers'"),
        ('{"mcpServers": {"a": {}}}', "'a': give it either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "url": "y"}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "trust": true}}}', "'trust' is unknown"),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', "args is 'y', which is of the wrong type"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}', "env has a value that is no text"),
        ('{"mcpServers": {"a": {"command": "x", "timeout": 0}}}', "timeout is 0"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_its_reason(tmp_path, text, said):
    path = tmp_path / "mcp.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_config(path)
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "other.json")


def test_a_server_that_ends_is_told_and_ends_nothing_else(tools):
    """It comes last, because the server is gone."""
    assert perform(tools["own_leave"], {}, never).failed
    assert perform(tools["own_add"], {"a": 1, "b": 1}, never).failed
    assert perform(tools["web_add"], {"a": 1, "b": 1}, never) == Outcome("2")
