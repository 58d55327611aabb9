"""Servers to talk to: the real process, and one in this process whose model says what it is given."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2

from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.home import models_dir
from gptoss_mlx.server.app import build
from gptoss_mlx.server.owner import Owner
from gptoss_mlx.server.process import Server, listening
from gptoss_mlx.server.residence import Loaded, Residence
from gptoss_mlx.server.service import Service
from tests.support.scripted import ScriptedBatch, ScriptedModel, ScriptedRuntime

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60


class Process:
    """``gptoss-mac serve`` as a user runs it, on a free port, and without a store on disk unless ``arguments`` give it
    one. ``url`` is without ``/v1``. ``said`` are the lines it has printed, standard output and error together. Its
    ``home`` has the installed models, but a socket of its own."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self.said: list[str] = []
        self._temporary = tempfile.TemporaryDirectory(prefix="gptoss-")
        self.home = Path(environment.setdefault("GPTOSS_MAC_HOME", self._temporary.name))
        if self.home == Path(self._temporary.name):
            models_dir().mkdir(parents=True, exist_ok=True)
            (self.home / "models").symlink_to(models_dir())
        self.url = ""
        disk = () if "--prefix-disk" in arguments else ("--prefix-disk", "off")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gptoss_mlx.cli", "serve", "--port", "0", *disk, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> "Process":
        assert self._ready.wait(SECONDS), "the server does not start"
        assert self.url, "".join(self.said)
        return self

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"(http://\S+)/v1", line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def get(self, path: str, **options) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=SECONDS, **options)

    def post(self, path: str, body: object = None, **options) -> httpx2.Response:
        return httpx2.post(self.url + path, timeout=SECONDS, **({"json": body} if body is not None else {}) | options)

    def health(self) -> dict:
        return self.get("/health").json()

    def wait_until_idle(self, seconds: float = 10) -> dict:
        """Wait until no reply is under way, and return the health."""
        end = time.monotonic() + seconds
        while (health := self.health())["running"] or health["requests"]:
            assert time.monotonic() < end, health
            time.sleep(0.02)
        return health

    def end(self) -> tuple[int, str]:
        """Wait for the end. Return the exit code and all that was printed."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code, "".join(self.said)


@contextlib.contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Process]:
    """Run the server inside the block, and stop it if it still runs then."""
    server = Process(*arguments, **environment)
    try:
        yield server.wait_until_ready()
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(SECONDS)


@contextlib.contextmanager
def scripted_server(
    tokenizer: Tokenizer, *replies: list[int], pause: float = 0, **options
) -> Iterator[SimpleNamespace]:
    """Serve, in this process, a model that says ``replies``, one to each row. ``pause`` is in seconds for each step.

    The ``rows`` in what it yields are the engine's stand-in, which knows what it was asked. ``replies`` may be added
    there.
    """
    rows = ScriptedBatch(iter(replies), pause=pause)
    runtime = ScriptedRuntime(tokenizer, ScriptedModel(iter(())))
    with served_here(Loaded(runtime, rows, None), "scripted", **options) as there:
        there.rows = rows
        there.runtime = runtime
        there.tokenizer = tokenizer
        yield there


@contextlib.contextmanager
def served_here(loaded: Loaded, name: str, places: int = 16, **options) -> Iterator[SimpleNamespace]:
    """Serve a model in this process, under ``name``, to so many requests at once."""
    there = SimpleNamespace(url="")
    ready = threading.Event()

    def wait_until_idle() -> None:
        end = time.monotonic() + 5
        while there.owner.running or there.service.taken:
            assert time.monotonic() < end
            time.sleep(0.01)

    there.wait_until_idle = wait_until_idle

    async def run() -> None:
        loop = there.loop = asyncio.get_running_loop()
        owner = there.owner = Owner(loop.call_soon_threadsafe)
        service = there.service = Service(owner, Residence(owner, [name], lambda name: loaded), places)
        app = build(service, host="127.0.0.1", **options)
        with listening("127.0.0.1", 0) as listener:
            there.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            there.server = Server(app, ready.set)
            owner.start()
            try:
                await there.server.serve([listener])
            finally:
                await asyncio.to_thread(owner.close)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield there
    finally:
        there.server.should_exit = there.server.force_exit = True
        thread.join(SECONDS)
