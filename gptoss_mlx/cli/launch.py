"""``gptoss-mac launch``: start a coding agent on the model of this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gptoss_mlx.cli import options
from gptoss_mlx.cli.signals import ENDING, taken
from gptoss_mlx.errors import EngineError, UsageError

END_SECONDS = 15.0
"""How long a server that was started here may take to end."""


def launch(
    client: Annotated[Literal["codex", "claude", "opencode"], typer.Argument(help="Program to start.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Its own arguments, after two dashes.")
    ] = None,
    model: options.Model = None,
    yes: options.Yes = False,
) -> None:
    """Start Codex, Claude Code or opencode on a model of this machine.

    Uses the server that runs, or starts one and ends it afterwards. The program's own files are not changed.
    """
    from gptoss_mlx.launching import CLIENTS, Endpoint

    make, package = CLIENTS[client]
    program = shutil.which(client)
    if program is None:
        raise UsageError(f"{client} is not installed; run: npm install -g {package}")
    with _server(model, yes) as (url, key, served), tempfile.TemporaryDirectory(prefix="gptoss-mac-") as folder:
        start = make(Endpoint(url, key, served, _about(url, key, served)), Path(folder))
        code = _run([program, *start.arguments, *(arguments or ())], os.environ | start.variables)
    sys.exit(code)


@contextmanager
def _server(model: str | None, yes: bool) -> Iterator[tuple[str, str | None, str]]:
    """Have a server inside the block, and yield its URL, its key and the model's name there: the server that runs, if
    it has the model, else one that is started."""
    if (remote := options.in_server(model)) is not None:
        remote.close()
        yield remote.connection.url, remote.connection.key, remote.served.name
        return
    with _started(options.obtained(model, yes)) as (url, served):
        yield url, None, served


@contextmanager
def _started(model: str) -> Iterator[tuple[str, str]]:
    """Run a server of ``model`` inside the block, apart from the terminal's Ctrl-C. Yield its URL, and the model's name
    there. Raises EngineError if it does not start, after it has said why."""
    command = [sys.executable, "-m", "gptoss_mlx.cli", "serve", "--port", "0", "--model", model]
    environment = {
        name: value for name, value in os.environ.items() if name != "GPTOSS_MAC_API_KEY"
    }  # none but this user is told where it is
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.fullmatch(r"serving (.+) at (http\S+)/v1\n", line):
                break
            sys.stderr.write(line)
        else:
            raise EngineError(f"the server of {model} did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()  # so that it never waits to be read
        yield found[2], found[1]
    finally:
        server.terminate()
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _about(url: str, key: str | None, model: str) -> dict[str, Any]:
    """Return what a server's list of models says of one."""
    request = urllib.request.Request(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=END_SECONDS) as response:
        return next(one for one in json.load(response)["models"] if one["slug"] == model)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run a program in the terminal to its end and return its exit code. Ctrl-C is its own business, and other signals
    are passed on to it."""
    process = subprocess.Popen(command, env=environment)
    before = {number: signal.getsignal(number) for number in ENDING if taken(number)}
    for number in before:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else lambda n, _: process.send_signal(n))
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
