"""Coding agents of other makers, headless and without a network: on the bundled model, and on one that says a script.

The script's model is the bundled one, whose every reply is forced. So it reads real prompts, and what the server says
of cached tokens is real.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import gptoss_mlx
from gptoss_mlx.engine.batching import Batch, Row
from gptoss_mlx.launching import CLIENTS, Endpoint
from gptoss_mlx.server.residence import Loaded
from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, MESSAGE, RETURN, encode
from tests.support.served import ROOT, Process, served_here

SECONDS = 240
BEFORE = "The colour is teal.\n"
AFTER = "The colour is amber.\n"
SHOUT = "tr a-z A-Z < notes.txt"
ANSWER = "The file now says amber."
TASK = "In notes.txt, replace teal by amber. Then check the file with a command."

CONFIGS = {
    ".codex/config.toml": '# mine\nmodel = "gpt-5"\nmodel_provider = "openai"\n',
    ".claude/settings.json": '{"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_MODEL": "opus"}}\n',
    ".config/opencode/opencode.json": (
        '{"$schema": "https://opencode.ai/config.json", "model": "anthropic/claude-opus-4-5", "username": "me"}\n'
    ),
}
"""Files of the clients' users, which name other servers and must stay as they are. opencode adds ``$schema`` to a file
that has none, however it is started. What clients write of their own accord beside these is not compared."""


@dataclass(frozen=True)
class Agent:
    """A client: its arguments before a prompt, and its calls that read a file, edit it, and run a command."""

    arguments: tuple[str, ...]
    calls: Callable[[Path], list[tuple[str, dict[str, Any]]]]
    variables: dict[str, str] = field(default_factory=dict)


def codex_calls(file: Path) -> list[tuple[str, dict[str, Any]]]:
    edit = "sed -i s/teal/amber/ notes.txt"
    return [("exec_command", {"cmd": command}) for command in ("cat notes.txt", edit, SHOUT)]


def claude_calls(file: Path) -> list[tuple[str, dict[str, Any]]]:
    edit = {"file_path": str(file), "old_string": "teal", "new_string": "amber"}
    return [("Read", {"file_path": str(file)}), ("Edit", edit), ("Bash", {"command": SHOUT, "description": "Check"})]


def opencode_calls(file: Path) -> list[tuple[str, dict[str, Any]]]:
    edit = {"filePath": str(file), "oldString": "teal", "newString": "amber"}
    return [("read", {"filePath": str(file)}), ("edit", edit), ("bash", {"command": SHOUT, "description": "Check"})]


AGENTS = {
    "codex": Agent(
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"), codex_calls
    ),
    "claude": Agent(
        ("-p", "--output-format", "stream-json", "--verbose", "--allowedTools", "Read,Edit,Bash", "--"), claude_calls
    ),
    "opencode": Agent(("run", "--auto", "--format", "json"), opencode_calls),
}


@dataclass
class Forced:
    """A constraint that leaves no choice."""

    ids: list[int]
    end: int
    length: int = 0

    def accept(self, id: int) -> None:
        assert id == self.ids[self.length]
        self.length += 1

    def forced(self) -> list[int]:
        return self.ids[self.length :]

    def mask(self) -> np.ndarray:
        raise AssertionError("all is forced")

    def rewind(self, length: int) -> None:
        self.length = length


@dataclass
class ForcedRows:
    """A batch whose rows say what ``choose`` returns for their prompts. ``asked`` are all rows that were added."""

    batch: Batch
    choose: Callable[[list[int]], list[int]]
    asked: list[Row] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return self.batch.busy

    def add(self, row: Row) -> None:
        ids = self.choose(row.prompt)
        row.constraint = Forced(ids, ids[-1])
        row.stop |= {ids[-1]}
        self.asked.append(row)
        self.batch.add(row)

    def remove(self, id: Any) -> None:
        self.batch.remove(id)

    def step(self) -> list[Any]:
        return self.batch.step()

    def write(self) -> bool:
        return True


@contextmanager
def scripted(calls: list[tuple[str, dict[str, Any]]]) -> Iterator[SimpleNamespace]:
    """Serve a model that makes these calls, one to each turn, and then answers. To a request without the first call's
    tool, such as one for a title, it says a title."""
    runtime = gptoss_mlx.load("tiny")
    tokenizer = runtime.tokenizer

    def choose(prompt: list[int]) -> list[int]:
        text = tokenizer.decode(prompt, markers=True)
        step = len(re.findall(r"<\|start\|>functions\.\S+ to=assistant", text))
        pieces = [CHANNEL, "final", MESSAGE, ANSWER, RETURN]
        if f"type {calls[0][0]} =" not in text:
            pieces[3] = "A title"
        elif step < len(calls):
            name, arguments = calls[step]
            body = json.dumps(arguments)
            pieces = [CHANNEL, f"commentary to=functions.{name} ", CONSTRAIN, "json", MESSAGE, body, CALL]
        return encode(pieces, tokenizer.special, tokenizer.encode)

    rows = ForcedRows(runtime.batch(4, None), choose)
    with served_here(Loaded(runtime, rows, None), "20b", 16) as there:
        there.rows = rows
        there.decode = lambda prompt: tokenizer.decode(prompt, markers=True)
        yield there


@contextmanager
def somewhere(programs: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A home with the files of CONFIGS, in which a client runs, and its variables. Raises if it changes one."""
    with tempfile.TemporaryDirectory(prefix="agent-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        for file, text in CONFIGS.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(text)
        (home / "work").mkdir()
        own = {"HOME": name, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HTTPS_PROXY": "", "HTTP_PROXY": ""}
        own |= {"PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": f"{name}/.config", "XDG_DATA_HOME": f"{name}/.local/share"}
        yield home, os.environ | own
        changed = {file: now for file, text in CONFIGS.items() if (now := (home / file).read_text()) != text}
        assert not changed, f"changed: {changed}"


def on_the_bundled_model(name: str, programs: Path, server: Process) -> str:
    """Have a client started with ``gptoss-mac launch`` ask the bundled model something."""
    before = server.health()["tokens"]
    with somewhere(programs) as (home, variables):
        command = [sys.executable, "-m", "gptoss_mlx.cli", "launch", name, "--", *AGENTS[name].arguments]
        said = run([*command, "What is 12 + 30?"], home / "work", variables | {"GPTOSS_MAC_HOME": str(server.home)})
    tokens = server.wait_until_idle()["tokens"] - before
    assert tokens, "the server was not asked"
    assert said.strip()
    return f"starts, streams and ends; {tokens} tokens; its configuration unchanged"


def on_a_script(name: str, programs: Path) -> str:
    """Have a client read a file, edit it, run a command and finish."""
    agent = AGENTS[name]
    with somewhere(programs) as (home, variables):
        file = home / "work" / "notes.txt"
        file.write_text(BEFORE)
        calls = agent.calls(file)
        with scripted(calls) as there, tempfile.TemporaryDirectory() as folder:
            with urllib.request.urlopen(f"{there.url}/v1/models") as response:
                about = json.load(response)["models"][0] | {"context_window": 131_072}
            start = CLIENTS[name][0](Endpoint(there.url, None, "20b", about), Path(folder))
            command = [programs / name, *start.arguments, *agent.arguments, TASK]
            said = run(command, home / "work", variables | start.variables | agent.variables)
            turns = [row for row in there.rows.asked if f"type {calls[0][0]} =" in there.decode(row.prompt)]
            last = there.decode(turns[-1].prompt)
        assert file.read_text() == AFTER, file.read_text()
    assert ANSWER in said, said[-2000:]
    assert AFTER.upper().strip() in last, "the output of the command was not sent"
    assert len(turns) == len(calls) + 1, f"{len(turns)} turns"
    shares = [turn.cached / len(turn.prompt) for turn in turns[1:]]
    assert min(shares) >= 0.95, f"cached {shares}"
    counts = ", ".join(f"{share:.1%}" for share in shares)
    return f"reads, edits, runs and finishes in {len(turns)} turns of {len(turns[0].prompt):,} tokens; cached {counts}"


def run(command: list[Any], folder: Path, variables: dict[str, str]) -> str:
    """Return what a program prints. Raises if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=variables | {"PWD": str(folder)},  # opencode believes it
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-1500:]} {done.stdout[-1500:]}"
    return done.stdout
