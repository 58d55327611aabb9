"""``make server-report``: what the server stands, and what it costs.

``python -m tests.reports.server PYTHON`` runs each part of PARTS, or those that are named after it, and exits with 1 if
one fails. PYTHON is that of an environment with schemathesis. ``--seconds`` is how long the streams run.
"""

import argparse
import asyncio
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai

import gptoss_mlx
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.memory.caches import sequence_bytes
from gptoss_mlx.server.residence import Loaded
from tests.reports.prefixes import MACS, budgets, opening
from tests.server.said import ENDLESS
from tests.server.test_turns import chat, message, respond
from tests.support.harmony_streams import encode
from tests.support.openapi import description
from tests.support.scripted import ScriptedBatch
from tests.support.served import Process, scripted_server, served_here, serving

ROWS, STEP, STEPS = 8, 0.02, 300
"""Rows, seconds of a step, and steps of the stand-in that measures the server's overhead."""

MOST_OVERHEAD = 0.03
STREAMS = 64
MOST_GROWTH = 0.03
CASES = 2000
RAW = 1000
LENGTH, TURNS = 20_000, 10

READER = """
import asyncio, httpx2, sys
async def read(client):
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with client.stream("POST", sys.argv[1] + "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_raw():
            pass
async def main():
    async with httpx2.AsyncClient(timeout=300) as client:
        await asyncio.gather(*[read(client) for _ in range(int(sys.argv[2]))])
asyncio.run(main())
"""


def overhead(options: argparse.Namespace) -> bool:
    """Compare the loop alone with the loop behind the server, in turns, with a model that sleeps."""
    tokenizer = Tokenizer.bundled()
    ids = encode(ENDLESS, tokenizer.special, tokenizer.encode)[:STEPS]
    alone, behind, between, processor = [], [], [], []
    for _ in range(3):
        rows = ScriptedBatch(iter([list(ids)] * ROWS), pause=STEP)
        for number in range(ROWS):
            rows.add(_Row(number))
        begun = []
        while rows.busy:
            begun.append(time.perf_counter())
            rows.step()
        alone += _intervals(begun)
        with scripted_server(tokenizer, *[ids] * ROWS, pause=STEP) as there:
            spans: list[tuple[float, float, float, float]] = []
            step = there.rows.step

            def timed(spans=spans, step=step):
                start, own = time.perf_counter(), time.thread_time()
                outcomes = step()
                spans.append((start, time.perf_counter(), own, time.thread_time()))
                return outcomes

            there.rows.step = timed
            subprocess.run([sys.executable, "-c", READER, there.url, str(ROWS)], check=True)
        behind += _intervals([span[0] for span in spans])
        between += [after[0] - before[1] for before, after in pairwise(spans[20:])]
        processor += [after[2] - before[3] for before, after in pairwise(spans[20:])]
    gap, own = statistics.median(between), statistics.median(processor)
    for name, number in (("median", 50), ("of the quickest tenth", 5)):
        loop, server = (sorted(found)[len(found) * number // 100] for found in (alone, behind))
        print(f"overhead at {ROWS} rows, {name}: a step of {loop * 1e3:.2f} ms takes {server * 1e3:.2f} ms, "
              f"{server / loop - 1:+.1%}")  # fmt: skip
    print(f"  between two steps {gap * 1e3:.2f} ms, {gap / STEP:.1%} of a step, of which {own * 1e3:.2f} ms computing; "
          f"load of the machine {os.getloadavg()[0]:.1f}")  # fmt: skip
    return server / loop - 1 < MOST_OVERHEAD  # of the quickest, because other programs slow down the others


class _Row:
    """What a scripted batch uses of a row."""

    stop = frozenset()

    def __init__(self, id: int) -> None:
        self.id = id
        self.cached = 0


def _intervals(begun: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(begun[20:-20])]


def raw(options: argparse.Namespace) -> bool:
    """Send bytes that are nearly HTTP, huge bodies, bad chunks and slow headers. The process must answer the next."""
    draw = random.Random(options.seed)
    found: Counter[str] = Counter()
    with serving("--model", "tiny") as server:
        with ThreadPoolExecutor(16) as pool:
            for data, answer in pool.map(lambda data: (data, _exchange(server, data)), _malformed(draw, RAW)):
                status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
                found[status] += 1
                if status.startswith("5"):
                    print(data[:200], answer[:200])
        slow = [_slowly(server) for _ in range(8)]
        asked = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "What is 12 + 30?"}]})
        answered = "42" in asked.text and asked.status_code == 200
        for thread in slow:
            thread.join()
        alive = server.wait_until_idle()
    said = ", ".join(f"{count} {status}" for status, count in sorted(found.items()))
    print(f"{sum(found.values())} malformed requests: {said}; the next is answered: {answered}; {alive['status']}")
    return answered and not any(status.startswith("5") for status in found)


def _malformed(draw: random.Random, count: int) -> list[bytes]:
    chat = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1}'
    good = [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(chat) + chat,
        b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        b'29\r\n{"input":"What is 2?","max_output_tokens":1}\r\n0\r\n\r\n',
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n{}x",
        b"GET / HTTP/1.1\r\nhost: localhost\r\naccept: text/html\r\n\r\n",
    ]
    whole = [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 40000000\r\n\r\n"
        + b"[" * (40 << 20),
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ]
    cases = list(whole)
    while len(cases) < count:
        data = bytearray(draw.choice(good))
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(4):
                case 0:
                    data[at : at + 1] = draw.randbytes(1)
                case 1:
                    data[at:at] = draw.randbytes(draw.randrange(20))
                case 2:
                    del data[at : at + draw.randrange(1, 15)]
                case 3:
                    del data[at:]
        cases.append(bytes(data))
    return cases


def _connected(server: Process) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=40)


def _exchange(server: Process, data: bytes) -> bytes:
    """Send bytes and say that no more come. Return the first of what is answered."""
    try:
        with _connected(server) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.recv(4096)
    except OSError:
        return b""


def _slowly(server: Process) -> threading.Thread:
    """Begin to send headers, a byte at a time, until the server has enough of it."""

    def send() -> None:
        with _connected(server) as client:
            try:
                for byte in b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 400:
                    client.sendall(bytes([byte]))
                    time.sleep(0.1)
            except OSError:
                pass

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def streams(options: argparse.Namespace) -> bool:
    """Have 64 clients stream for a while, of which 30% leave and 5% send nonsense, and end the server meanwhile."""
    with serving("--model", "tiny", "--max-concurrency", "16") as server:
        good = asyncio.run(_streams(server, options.seconds, random.Random(options.seed)))
        server.process.terminate()
        code, _ = server.end()
    print(f"  SIGTERM in the middle: exit code {code}")
    return good and code == 143


async def _streams(server: Process, seconds: float, draw: random.Random) -> bool:
    sums = [(draw.randrange(10, 99), draw.randrange(10, 99)) for _ in range(40)]
    counts: Counter[str] = Counter()
    sizes: list[int] = []
    path = f"{server.url}/v1/chat/completions"
    end = time.monotonic() + seconds
    draining = False

    def body(pair: tuple[int, int], stream: bool) -> dict[str, Any]:
        asked = {"messages": [{"role": "user", "content": f"What is {pair[0]} + {pair[1]}?"}], "stream": stream}
        return asked | {"temperature": 0, "reasoning_effort": "low", "max_tokens": 200}

    async with httpx2.AsyncClient(timeout=300, limits=httpx2.Limits(max_connections=200)) as client:
        alone = {}
        for pair in sums:
            done = await client.post(path, json=body(pair, False))
            alone[pair] = done.json()["choices"][0]["message"]["content"]

        async def one() -> None:
            while time.monotonic() < end:
                kind = draw.random()
                try:
                    if kind < 0.05:
                        nonsense = draw.choice([b"{", b"\xff", b'{"messages":5}', b"[" * 5000])
                        done = await client.post(path, content=nonsense)
                        counts["malformed, refused" if 400 <= done.status_code < 500 else "wrong status"] += 1
                    else:
                        await stream(draw.randrange(1, 30) if kind < 0.35 else None)
                except httpx2.HTTPError:
                    counts["refused while it ended" if draining else "broken"] += 1
                    if draining:
                        return

        async def stream(leave: int | None) -> None:
            pair = draw.choice(sums)
            async with client.stream("POST", path, json=body(pair, True)) as response:
                if response.status_code == 429:
                    counts["told to wait"] += 1
                    await asyncio.sleep(0.2)
                    return
                text, finish, pieces = "", None, 0
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        choice = json.loads(line[6:])["choices"][0]
                        text += choice["delta"].get("content") or ""
                        finish = choice["finish_reason"] or finish
                        pieces += 1
                        if leave is not None and pieces > leave:
                            counts["left"] += 1
                            return
                counts["as alone" if text == alone[pair] and finish else "otherwise"] += 1

        async def watch() -> None:
            while time.monotonic() < end:
                sizes.append(_resident(server))
                await asyncio.sleep(2)

        await asyncio.gather(watch(), *[one() for _ in range(STREAMS)])
        await asyncio.sleep(1)
        idle = server.wait_until_idle()
        # Once more, with a signal in the middle: what has begun must end as alone.
        end = time.monotonic() + 4
        before = counts["as alone"], counts["otherwise"]
        tasks = [asyncio.create_task(one()) for _ in range(STREAMS)]
        await asyncio.sleep(1.5)
        draining = True
        server.process.terminate()
        await asyncio.gather(*tasks, return_exceptions=True)
    settled = sizes[max(1, int(min(60, seconds / 3) / 2)) :]
    print("  resident MB each half minute: " + " ".join(f"{size / 2**20:.1f}" for size in sizes[::15]))
    first, last = statistics.median(settled[:10]), statistics.median(settled[-10:])
    print(f"{STREAMS} streams for {seconds:.0f} s: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    print(f"  resident {first / 2**20:.1f} MB, then {last / 2**20:.1f} MB ({last / first - 1:+.1%}); after it "
          f"{idle['running']} rows; while it ended {counts['as alone'] - before[0]} as alone")  # fmt: skip
    bad = counts["otherwise"] + counts["broken"] + counts["wrong status"] + idle["running"]
    return not bad and last / first - 1 < MOST_GROWTH and counts["as alone"] > before[0]


def _resident(server: Process) -> int:
    """Return the bytes of the server's process in memory."""
    done = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


def turns(options: argparse.Namespace) -> bool:
    """Have a conversation of 20,000 tokens over each API, with a title request and a second agent between its turns,
    in as many tokens of memory as 20b's plan has on two Macs. Each turn may read only what is new."""
    good = True
    for gigabytes in MACS:
        kept, context = budgets(gigabytes)
        runtime = gptoss_mlx.load("tiny", context=context)
        config, dtype = runtime.config, runtime.model.weights.dtype
        with tempfile.TemporaryDirectory() as folder:
            snapshots = Snapshots(BoundedFolder(Path(folder), 4 * 10**9))
            runtime = replace(runtime, prefixes=PrefixCache(sequence_bytes(config, kept, dtype), snapshots))
            memory = sequence_bytes(config, context, dtype)
            with served_here(Loaded(runtime, runtime.batch(16, memory), memory), "20b") as there:
                where = {"api_key": "none", "max_retries": 0, "timeout": 300}
                clients: dict[Callable[..., Any], Any] = {
                    chat: openai.OpenAI(base_url=f"{there.url}/v1", **where),
                    respond: openai.OpenAI(base_url=f"{there.url}/v1", **where),
                    message: anthropic.Anthropic(base_url=there.url, **where),
                }
                for api, client in clients.items():
                    first, most = _turns(api, client, opening(runtime, f"{api.__name__}{gigabytes}", LENGTH))
                    name = {"chat": "chat completions", "respond": "responses", "message": "messages"}[api.__name__]
                    print(f"{gigabytes} GB ({kept:,} tokens kept, context {context:,}), {name}: a first prompt of "
                          f"{first:,} tokens, then at most {most} read beyond what is new")  # fmt: skip
                    good &= most <= 8  # what stands between two prompts: a reply's start and its channel
            snapshots.writer.close()
    return good


def _turns(api: Callable[..., Any], client: Any, text: str) -> tuple[int, int]:
    """Return the length of the first prompt, and the most tokens that a later turn read which were not new."""
    said = [(text, None)]
    agent = [(f"{api.__name__} {text[:4000]}", None)]
    before = first = 0
    most = 0
    for number in range(TURNS):
        answer, length, cached = api(client, said)
        if number:
            most = max(most, before - cached)
        first = first or length
        before = length
        said = [*said[:-1], (said[-1][0], answer or "-"), (f"and plus {number + 5}?", None)]
        api(client, [(f"Write a title for: {text[:200]}", None)])
        answer, _, _ = api(client, agent)
        agent = [*agent[:-1], (agent[-1][0], answer or "-"), (f"What is {number} + 3?", None)]
    return first, most


def schema(options: argparse.Namespace) -> bool:
    """Have schemathesis make requests from the description of the API: none may fail in the server, none may hang."""
    program = Path(options.python).absolute().parent / "schemathesis"
    if not program.exists():
        print(f"{program} is missing")
        return False
    with serving("--model", "tiny") as server, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "openapi.json"
        file.write_text(json.dumps(description()))
        varied = [one for path, one in description()["paths"].items() if "post" in one or "{" in path]
        each = options.cases // (len(varied) - 3) + 1  # of some there are not so many different ones
        asked = ("--url", server.url, "--checks", "not_a_server_error", "--phases", "fuzzing", "--mode", "all")
        asked += ("--max-examples", str(each), "--seed", str(options.seed), "--request-timeout", "30", "--no-color")
        asked += ("--workers", "2", "--suppress-health-check", "all", "--generation-database", "none")
        asked += ("--report", "ndjson", "--report-dir", folder)
        done = subprocess.run(
            [str(program), "run", str(file), *asked],
            capture_output=True,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            cwd=folder,
            check=False,
        )
        alive = server.wait_until_idle()
    made = sum(int(count) for count in re.findall(r"(\d+) generated", done.stdout))
    passed = done.returncode == 0 and made >= options.cases
    print(f"schemathesis: {made} requests, exit code {done.returncode}; the server is {alive['status']}")
    if not passed:
        print(done.stdout[-6000:], done.stderr[-2000:])
    return passed


PARTS = {"overhead": overhead, "raw": raw, "streams": streams, "turns": turns, "schema": schema}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("python")
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = [name for name in options.parts or PARTS if not PARTS[name](options)]
    print(f"missed: {', '.join(failed)}" if failed else "all goals reached")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
