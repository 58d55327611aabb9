"""Kill a batch again and again, and compare its answers with those of a batch without kills.

``make batch-kill-test`` runs it on 1,000 prompts with 20 SIGKILLs. Most kills come from outside, when the file has a
given number of answers, and some while the process starts. Some come from inside, in the middle of writing an answer,
because a kill from outside would rarely hit that moment. The process writes what it is doing to a shared byte.
"""

import argparse
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PHASES = ("starting", "reading the input", "loading", "prefill", "decode", "writing an answer", "between")
INSIDE = ("before writing", "half written", "after writing")


@dataclass(frozen=True)
class Killed:
    phase: str
    lines: int
    torn: bool


@dataclass(frozen=True)
class Report:
    kills: list[Killed]
    expected: set[str]
    ids: list[str]
    different: list[str]
    seconds: tuple[float, float]  # without and with kills

    @property
    def fine(self) -> bool:
        return len(self.ids) == len(set(self.ids)) and set(self.ids) == self.expected and not self.different

    def __str__(self) -> str:
        total = len(self.expected)
        deciles = Counter(min(9, 10 * kill.lines // total) for kill in self.kills)
        phases = Counter(kill.phase for kill in self.kills)
        rows = ["lines written at a kill:"]
        rows += [f"  {total * d // 10:5} to {total * (d + 1) // 10:5}  {'#' * deciles[d]}" for d in range(10)]
        rows += ["phase at a kill:"]
        rows += [f"  {phase:18} {'#' * phases[phase]} {phases[phase]}" for phase in PHASES if phases[phase]]
        rows += [
            f"{len(self.kills)} kills, {sum(kill.torn for kill in self.kills)} of them leaving a torn line",
            f"{total} prompts, {len(self.ids)} answers, {len(set(self.ids))} distinct",
            f"{len(self.different)} answers differ from those without kills: {self.different[:5]}",
            f"{self.seconds[0]:.0f} s without kills, {self.seconds[1]:.0f} s with them",
        ]
        return "\n".join(rows)


def experiment(folder: Path, source: Path, options: Sequence[str], kills: int, seed: int = 0) -> Report:
    """Run both batches and compare them. ``kills`` are spread evenly over the answers, with random shifts."""
    rng = random.Random(seed)
    begun = time.monotonic()
    calm = folder / "calm.jsonl"
    process = _start(source, calm, options)
    while not _lines(calm) and process.poll() is None:
        time.sleep(0.002)
    until_first = time.monotonic() - begun
    assert process.wait() == 0
    undisturbed = time.monotonic() - begun
    want = {_id(record): record for record in _records(calm)}

    out = folder / "killed.jsonl"
    killer = _Killer(source, out, options, rng, until_first, (undisturbed - until_first) / len(want))
    deaths = [killer.strike(number, int((number + rng.random()) / (kills + 1) * len(want))) for number in range(kills)]
    assert _start(source, out, options).wait() == 0
    got = _records(out)
    different = [_id(record) for record in got if _comparable(record) != _comparable(want.get(_id(record), {}))]
    seconds = undisturbed, time.monotonic() - begun - undisturbed
    return Report(deaths, set(want), [_id(record) for record in got], different, seconds)


@dataclass(frozen=True)
class _Killer:
    """``until_first`` and ``each`` are the seconds that the first answer and each further one take without kills."""

    source: Path
    out: Path
    options: Sequence[str]
    rng: random.Random
    until_first: float
    each: float

    def strike(self, number: int, place: int) -> Killed:
        """Start the batch, and kill it from outside or inside at about ``place`` answers, or while it starts."""
        before = _lines(self.out)
        inside = INSIDE[number // 4 % len(INSIDE)] if number % 4 == 1 else None
        with tempfile.NamedTemporaryFile() as shared:
            shared.write(b"\0")
            shared.flush()
            plan = f"{inside}:{max(1, place - before)}" if inside else ""
            process = _start(self.source, self.out, self.options, shared.name, plan)
            if inside is None:
                self._wait(process, number, max(place, before))
                process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
            phase = PHASES[Path(shared.name).read_bytes()[0]]
        torn = self.out.exists() and self.out.stat().st_size > 0 and not self.out.read_bytes().endswith(b"\n")
        return Killed(phase, _lines(self.out), torn)

    def _wait(self, process: subprocess.Popen, number: int, lines: int) -> None:
        if number % 5 == 3:
            before = _lines(self.out)
            end = time.monotonic() + self.rng.uniform(0.1, 0.9) * self.until_first
            while time.monotonic() < end and _lines(self.out) == before:  # it may start faster than the first did
                time.sleep(0.001)
            return
        while _lines(self.out) <= lines and process.poll() is None:
            time.sleep(0.001)
        time.sleep(self.rng.uniform(0, self.each))


def _start(source: Path, out: Path, options: Sequence[str], shared: str = "", plan: str = "") -> subprocess.Popen:
    arguments = ["batch", str(source), "--out", str(out), "--temperature", "0", *options]
    command = [sys.executable, "-m", "tests.batch.kills", "--child", shared, plan, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _records(path: Path) -> list[dict]:
    text = path.read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


def _id(record: dict) -> str:
    return record.get("custom_id") or record["id"]


def _comparable(record: dict) -> dict:
    """Return ``record`` without times and without counts of cached tokens, which a restarted process lacks."""
    body = (record.get("response") or {}).get("body") or {}
    for name in ("created", "created_at"):
        body.pop(name, None)
    usage = body.get("usage") or record.get("usage") or {}
    for name in ("cached_tokens", "prompt_tokens_details", "input_tokens_details"):
        usage.pop(name, None)
    return record


def _child(shared: str, plan: str, arguments: list[str]) -> None:
    """Run the real command line. It writes its phase to a shared byte and may kill itself."""
    if shared:
        _watch(shared, *(plan.split(":") if plan else ("", "0")))
    sys.argv = ["gptoss-mac", *arguments]
    from gptoss_mlx.cli import main

    main()


def _watch(shared: str, moment: str, count: str) -> None:
    from gptoss_mlx.batch import answers
    from gptoss_mlx.batch.source import Source
    from gptoss_mlx.cli import options
    from gptoss_mlx.engine.batching import Batch
    from gptoss_mlx.model.decoder import Decoder

    with open(shared, "r+b") as file:
        byte = mmap.mmap(file.fileno(), 1)

    def noting(phase, function, after="between"):
        def call(*arguments, **named):
            byte[0] = PHASES.index(phase)
            try:
                return function(*arguments, **named)
            finally:
                byte[0] = PHASES.index(after)

        return call

    appended = 0
    real_write = os.write

    def write(file, data):
        nonlocal appended
        appended += 1
        if appended == int(count):
            part = {"before writing": b"", "half written": data[: len(data) // 2], "after writing": data}[moment]
            real_write(file, part)
            os.kill(os.getpid(), signal.SIGKILL)
        return real_write(file, data)

    answers.os = type("os", (), vars(os) | {"write": staticmethod(write)})
    answers.Answers.append = noting("writing an answer", answers.Answers.append)
    Source.survey = noting("reading the input", Source.survey)
    options.open_model = noting("loading", options.open_model)
    Batch.step = noting("between", Batch.step)
    Decoder.__call__ = noting("prefill", Decoder.__call__, after="prefill")
    Decoder.decode = noting("decode", Decoder.decode, after="decode")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=Path, default=ROOT / "tests" / "data" / "prompts.jsonl")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--max-tokens", default="24")
    given = parser.parse_args()
    options = ["--model", given.model, "--max-tokens", given.max_tokens, "--reasoning", "low", "--include-thinking"]
    with tempfile.TemporaryDirectory() as folder:
        report = experiment(Path(folder), given.prompts, options, given.kills)
    print(report)
    return 0 if report.fine else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        sys.exit(main())
