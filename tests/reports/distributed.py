"""``make distributed-report``: one model on several local ranks: the same bits, and an end in time.

``python -m tests.reports.distributed`` runs each of PARTS, or those that are named after it, and exits with 1 if one
fails. Linux only. ``--kills`` and ``--stalls`` say how many ranks are killed and stopped.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.distributed.losses import LIMIT, Ended, lose
from tests.support.served import Process

ROOT = Path(__file__).parent.parent.parent
MOST = 1e-5
"""By how much a logit may differ from that of one process."""

LONGEST = 5.0
"""Seconds after its start at which a batch loses a rank at the latest. Loading takes the first two or three."""


def same(options: argparse.Namespace) -> bool:
    """Compare ranks with one process: logits, replies, batches, prefixes, scores; with experts in memory and paged."""
    fine = True
    for ranks, memory in ((2, None), (3, None), (4, None), (2, "40MB")):
        paging = [] if memory is None else ["--memory", memory]
        found = json.loads(_output("-m", "tests.distributed.beside", ranks, *paging))
        differences = (found["difference"], found["difference_of_two_rows"])
        unlike = [name for name, value in found.items() if value is False and name != "paged"]
        paged = ", experts paged" if found["paged"] else ""
        largest = f"{max(differences):.1e} of {MOST:.0e}"
        print(f"{ranks} ranks{paged}: logits differ by at most {largest}; unlike: {unlike or '-'}", flush=True)
        fine &= max(differences) <= MOST and not unlike and found["paged"] == (memory is not None)
    return fine


def commands(options: argparse.Namespace) -> bool:
    """Ask run, batch and the server, on two ranks and on one process."""
    question = "What is 347 + 58?"
    said = {}
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.txt"
        lines.write_text("".join(f"What is {n} + {3 * n}?\n" for n in range(40)))
        for spread in ((), ("--distributed", "2")):
            model = ("--model", "tiny", "--temperature", "0", *spread, *([] if spread else ["--own-model"]))
            answer = _output("-m", "gptoss_mlx.cli", "run", "--no-log", *model, question)
            out = Path(folder) / f"answers{len(spread)}.jsonl"
            _output("-m", "gptoss_mlx.cli", "batch", lines, "--out", out, *model)
            answers = sorted(json.loads(line)["answer"] for line in out.read_text().splitlines())
            server = Process("--model", "tiny", *spread).wait_until_ready()
            body = {"messages": [{"role": "user", "content": question}], "temperature": 0}
            replies = [server.post("/v1/chat/completions", body).json()["choices"][0]["message"] for _ in range(2)]
            server.process.send_signal(signal.SIGTERM)
            code, _ = server.end()
            said[spread] = (answer, answers, replies, code)
    one, two = said.values()
    for name, left, right in zip(("run", "batch", "serve", "serve's exit code"), one, two, strict=True):
        print(f"{name}: {'the same' if left == right else f'{right} instead of {left}'}")
    return one == two


def kills(options: argparse.Namespace) -> bool:
    """Kill one of two, three or four ranks of a batch, at random times."""
    return _losses(signal.SIGKILL, options.kills)


def stalls(options: argparse.Namespace) -> bool:
    """Stop one of two, three or four ranks of a batch, at random times."""
    return _losses(signal.SIGSTOP, options.stalls)


def interrupts(options: argparse.Namespace) -> bool:
    """Send rank 0 Ctrl-C and SIGTERM while a batch starts and while it answers."""
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        for ranks, number, after in ((2, signal.SIGINT, 0.0), (2, signal.SIGINT, 3.0), (4, signal.SIGTERM, 3.0)):
            ended = lose(Path(folder), ranks, number, after, rank_0=True)
            print(f"  of {ranks} ranks {ended}", flush=True)
            fine &= ended.fine and ended.code == 128 + number
    return fine


def _losses(number: signal.Signals, times: int) -> bool:
    found: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder:
        for time_ in range(times):
            ranks = 2 + time_ % 3
            found.append(lose(Path(folder), ranks, number, random.uniform(0, LONGEST)))
            print(f"  of {ranks} ranks {found[-1]}", flush=True)
    fine = sum(ended.fine for ended in found)
    slowest = max(ended.seconds or float("inf") for ended in found)
    print(f"{number.name}: {fine} of {times} ended all ranks within {LIMIT:.0f} s with an exit code that is not 0, ")
    print(f"  the slowest in {slowest:.1f} s")
    return fine == times


def _output(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    part.__name__: part for part in (same, commands, kills, stalls, interrupts)
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stalls", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    failed = []
    for name in options.parts:
        begun = time.monotonic()
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        if not PARTS[name](options):
            failed.append(name)
        print(f"{name}: {'FAILED' if name in failed else 'fine'}, {time.monotonic() - begun:.0f} s\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
