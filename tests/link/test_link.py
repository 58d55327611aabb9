"""A model in a server, used by other programs of the same user: the same ids, the same errors, and little memory."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import gptoss_mlx
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.batching import Failed, Row
from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, UsageError
from gptoss_mlx.events import Done, Text, Thought
from gptoss_mlx.grammars.grammar import from_regex
from gptoss_mlx.link.client import RemoteRuntime
from gptoss_mlx.link.connection import GONE, find_server
from gptoss_mlx.link.protocol import to_line
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.server.link import Link
from tests.support.checkpoints import SMALL
from tests.support.cli import run_cli
from tests.support.models import endless_model
from tests.support.served import serving

GREEDY = Sampling(temperature=0)
BOTH = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
SUM = "What is 12 + 30?"


@pytest.fixture(scope="module")
def server():
    with serving("--model", "tiny", "--max-concurrency", "4") as process:
        yield process


@pytest.fixture(scope="module")
def own():
    return gptoss_mlx.load("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose greedy replies do not end."""
    return endless_model(tmp_path_factory.mktemp("link"), SMALL, seed=31)


@pytest.fixture(scope="module")
def endless(folder):
    with serving("--model", folder, "--context", "700") as process:
        yield process


@pytest.fixture
def runtime_of(monkeypatch):
    """Make what a program uses of a server's model."""
    opened = []

    def use(process):
        monkeypatch.setenv("GPTOSS_MAC_HOME", str(process.home))
        connection = find_server()
        opened.append(RemoteRuntime(connection.models[0], connection))
        return opened[-1]

    yield use
    for runtime in opened:
        runtime.close()


def talk(runtime, *messages, **options):
    """Return what a conversation says, and the counts of each reply."""
    chat = Conversation(runtime, sampling=GREEDY, date="2025-06-28", **options)
    said = []
    for message in messages:
        events = list(chat.send(message))
        text = "".join(event.text for event in events if isinstance(event, Text))
        usage = events[-1].usage
        said.append((text, events[-1].reason, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens))
    return said


def test_the_socket_is_for_this_user_alone(server):
    status = (server.home / "model.socket").stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_conversation_says_and_reads_what_it_does_with_a_model_of_its_own(server, runtime_of, own):
    asked = [SUM, "and plus 10?", "What is 99 - 4?"]
    remote = talk(runtime_of(server), *asked, instructions="Be brief.")
    assert remote == talk(own, *asked, instructions="Be brief.")
    assert remote[1][3] > 0


def test_run_uses_the_server_without_the_libraries_of_a_model(server):
    program = (
        "import atexit, pathlib, sys\n"
        "absent = ('mlx', 'metal_kernels', 'gptoss_mlx.engine', 'gptoss_mlx.runtime')\n"
        "def tell():\n"
        "    status = pathlib.Path('/proc/self/status')\n"
        "    status = status.read_text().split() if status.exists() else ['VmHWM:', '0']\n"
        "    kilobytes = int(status[status.index('VmHWM:') + 1])\n"
        "    print([n for n in absent if n in sys.modules], kilobytes >> 10, file=sys.stderr)\n"
        "atexit.register(tell)\n"
        f"sys.argv = ['gptoss-mac', 'run', '--temperature', '0', {SUM!r}]\n"
        "from gptoss_mlx.cli import main\nmain()"
    )
    before = server.health()["tokens"]
    environment = os.environ | {"GPTOSS_MAC_HOME": str(server.home)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "42" in done.stdout
    assert server.health()["tokens"] > before
    loaded, megabytes = done.stderr.strip().rsplit(" ", 1)
    assert loaded == "[]"
    assert int(megabytes) < 100


def test_a_model_of_ones_own_is_loaded_on_request_and_for_another_name(server, monkeypatch, folder):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(server.home))
    before = server.health()["tokens"]
    for options in (("--own-model",), ("--context", "2000"), ("--model", folder, "--max-tokens", "3")):
        run_cli("run", "--temperature", "0", *options, SUM)
    assert server.health()["tokens"] == before


def test_a_second_model_that_does_not_fit_beside_it_is_refused_with_the_remedy(server, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(server.home))
    code, _, err = run_cli("run", "--own-model", "--memory", "1MB", SUM)
    assert code == MemoryBudgetError.exit_code
    assert "a server has tiny in memory: end it, or use it, by `run`, `chat` or `batch` with --model tiny" in err


def test_a_batch_answers_as_with_a_model_of_its_own(server, monkeypatch, tmp_path):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(server.home))
    prompts = tmp_path / "in.txt"
    prompts.write_text("".join(f"What is {n} + 7?\n" for n in range(20, 32)))
    before = server.health()["tokens"]
    answers = []
    for name, options in (("remote", ()), ("own", ("--own-model",))):
        out = tmp_path / f"{name}.jsonl"
        assert run_cli("batch", prompts, "--out", out, "--temperature", "0", "--concurrency", "3", *options)[0] == 0
        records = [json.loads(line) for line in out.read_text().splitlines()]
        answers.append({record["id"]: record["answer"] for record in records})
    assert answers[0] == answers[1]
    assert server.health()["tokens"] > before


def test_scores_and_constraints_are_the_same(server, runtime_of, own):
    remote = runtime_of(server)
    ids = own.tokenizer.encode("12 + 30 = 42, and so on")
    assert [pytest.approx(score.logprob, abs=1e-4) for score in own.score(ids, 2)] == [
        score.logprob for score in remote.score(ids, 2)
    ]
    found = []
    for runtime in (remote, own):
        context = runtime.context()
        constraint = runtime.constraint(from_regex("(yes|no) [0-9]{3}"))
        options = {"head": 0, "max_tokens": 20, "sampling": GREEDY, "constraint": constraint}
        found.append(list(runtime.continuation(runtime.go_on(context, ids), ids, **options)))
    assert found[0] == found[1]
    assert own.tokenizer.decode(found[0]).split()[0] in ("yes", "no")


def test_errors_are_of_the_type_that_they_are_here(endless, runtime_of):
    runtime = runtime_of(endless)
    with pytest.raises(ContextLengthError, match="700"):
        next(runtime.continuation(runtime.context(), [1] * 700, head=0, max_tokens=1, sampling=GREEDY))
    with pytest.raises(UsageError, match="prompt"):
        next(runtime.continuation(runtime.context(), [-1], head=0, max_tokens=1, sampling=GREEDY))
    rows = runtime.batch(2, None)
    with pytest.raises(ContextLengthError, match="700"):
        rows.add(Row("long", [1] * 700, runtime.context(), 1, GREEDY, frozenset()))
    rows.add(Row("bad", [10**9], runtime.context(), 1, GREEDY, frozenset()))
    outcomes = []
    while rows.busy:
        outcomes += rows.step()
    assert [(type(outcome), outcome.id) for outcome in outcomes] == [(Failed, "bad")]
    assert isinstance(outcomes[0].error, UsageError)


def test_a_reply_that_is_cancelled_ends_within_two_tokens(endless, runtime_of):
    chat = Conversation(runtime_of(endless), sampling=GREEDY)
    seen = 0
    before = endless.health()["tokens"]
    for event in chat.send("Hi"):
        seen += isinstance(event, Text | Thought)
        if seen == 1:
            chat.cancel()
    assert isinstance(event, Done)
    assert event.reason == "cancelled"
    ended = endless.wait_until_idle(2)["tokens"]
    assert (
        ended - before <= event.usage.completion_tokens + 40
    )  # of which the socket holds a few hundredths of a second
    time.sleep(0.2)
    assert endless.health()["tokens"] == ended


def test_a_program_that_is_killed_ends_its_reply(endless):
    environment = os.environ | {"GPTOSS_MAC_HOME": str(endless.home)}
    command = [sys.executable, "-m", "gptoss_mlx.cli", "run", "--temperature", "0", "--show-thinking", "Hi"]
    with subprocess.Popen(command, **BOTH, env=environment) as program:
        assert program.stdout.read(1)
        program.kill()
    assert endless.wait_until_idle(5)["running"] == 0


def test_a_server_that_dies_in_the_middle_ends_the_reply_with_a_clear_error(folder):
    with serving("--model", folder, "--context", "20000") as process:
        environment = os.environ | {"GPTOSS_MAC_HOME": str(process.home)}
        command = [sys.executable, "-m", "gptoss_mlx.cli", "run", "--temperature", "0", "--show-thinking", "Hi"]
        with subprocess.Popen(command, **BOTH, env=environment) as program:
            assert program.stdout.read(1)
            process.process.kill()
            said, _ = program.communicate(timeout=20)
        assert program.returncode == EngineError.exit_code
        assert said.decode().endswith(f"gptoss-mac: {GONE}\n")
        assert (process.home / "model.socket").exists()  # what a killed server leaves


def test_what_a_killed_server_left_is_replaced_and_a_second_server_leaves_it_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    path = tmp_path / "model.socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    service = SimpleNamespace(residence=SimpleNamespace(names=(), present=None))

    def link():
        http = {"url": "http://127.0.0.1:1", "key": None}
        return Link(service, lambda name: tmp_path, lambda: False, http).listening()

    faults = []

    async def serve():
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))
        async with link() as problem, link() as second:
            assert problem is None
            assert second == "another server's model is used by run, chat and batch"
            found = await asyncio.to_thread(find_server)
            assert found.url == "http://127.0.0.1:1"
        found.close()  # only now: who is still connected when the server ends is no fault of it
        assert not path.exists()
        monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / ("long" * 30)))
        async with link() as problem:
            assert "is too long for a socket" in problem
        assert not faults

    asyncio.run(serve())


def test_sigterm_lets_a_reply_end_first(folder, runtime_of):
    with serving("--model", folder, "--context", "3000") as process:
        chat = Conversation(runtime_of(process), sampling=GREEDY, max_tokens=1500)
        events = chat.send("Hi")
        next(events)
        process.process.send_signal(signal.SIGTERM)
        done = list(events)[-1]
        assert (done.reason, done.usage.completion_tokens) == ("length", 1500)
        with pytest.raises(EngineError, match=r"has ended|is ending"):
            list(chat.send("Hi"))
        assert process.end()[0] == 128 + signal.SIGTERM


def test_another_version_means_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    for answer in ({"version": 2, "models": []}, {"version": 1}, [], None):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "model.socket"))
            listener.listen()

            def serve(listener=listener, answer=answer):
                client = listener.accept()[0]
                with client:
                    client.recv(1000)
                    if answer is not None:
                        client.sendall(to_line(answer))

            thread = threading.Thread(target=serve)
            thread.start()
            assert find_server() is None
            thread.join()
        (tmp_path / "model.socket").unlink()
    assert find_server() is None


def test_nonsense_over_the_socket_leaves_the_server_well(server, runtime_of):
    rng = random.Random(5)
    asks = [b"", b"\n", b"[]\n", b"null\n", b"{}\n", b"\xff\n", b"[" * 100_000 + b"\n"]
    fields = {"id": 1, "do": "generate", "model": "tiny", "prompt": [1, 2], "max_tokens": 1, "sampling": {}, "stop": []}
    for name in fields:
        for value in (None, -1, 1e400, "x", [], {}, [None], {"seed": []}, True):
            asks += [b'{"version":1}\n' + to_line(fields | {name: value})]
    asks += [b'{"version":1}\n' + rng.randbytes(rng.randrange(200)) for _ in range(40)]
    for ask in asks:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(server.home / "model.socket"))
            client.sendall(ask)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
    assert "42" in talk(runtime_of(server), SUM)[0][0]
    assert server.wait_until_idle(5)["running"] == 0
