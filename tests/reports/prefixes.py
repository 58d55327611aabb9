"""``make prefix-report``: conversations that take turns in the memory that 20b has on a Mac with 16 and with 24 GB.

The plan of 20b gives the prefix cache and the context so many bytes. They are converted to tokens, and the bundled
model gets as many tokens. Conversations of 20,000 tokens take turns in one context, more of them than the prefix cache
holds, so that some go to disk. Every turn must read only what is new. Then the process is killed, and in another one
the first turn of each conversation must too. Exits with 1 if a turn reads more.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import mlx.core as mx
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from gptoss_mlx import sessions
from gptoss_mlx.bounded_folder import BoundedFolder
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.context import Context
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.engine.snapshot import Snapshots
from gptoss_mlx.events import Done
from gptoss_mlx.history import opened_history
from gptoss_mlx.home import snapshots_dir
from gptoss_mlx.machine import MARGIN
from gptoss_mlx.memory.caches import sequence_bytes
from gptoss_mlx.memory.plan import plan
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling

ROOT = Path(__file__).parent.parent.parent
TOKENS = 128
"""The most tokens of a reply."""

MACS = (16, 24)
"""Gigabytes of memory. macOS lets Metal have two thirds of so much by default."""


@dataclass(frozen=True)
class Scale:
    """How large a sample is. Lengths and budgets are tokens. ``guests`` begin after these turns, beside the first and
    the second conversation, and come back in the end only."""

    length: int = 20_000
    turns: int = 10
    guests: tuple[int, ...] = (2, 5)
    kept: int = 48_000
    context: int = 48_000


@dataclass
class Turn:
    """What a turn read. ``new`` are the ids that its prompt adds to an earlier one of the conversation: the last one
    that it begins with, because a message without an answer is forgotten. ``digest`` is that of its prompt."""

    name: str
    prompt: int
    digest: str
    new: int
    read: int
    evicted: int = 0
    loaded: int = 0
    written: float = 0.0
    as_cold: bool = True  # whether the reply is that of a process that reads all, where this was compared


def budgets(gigabytes: int) -> tuple[int, int]:
    """Return the tokens of the prefix cache and of the context that 20b's plan has room for on such a Mac."""
    config = PUBLISHED["20b"]
    found = plan(config, "q8", int(gigabytes * 2**30 * 2 / 3 * (1 - MARGIN)), "metal")
    tokens = 0
    while sequence_bytes(config, tokens + 1000, mx.bfloat16) <= found["prefix cache"]:
        tokens += 1000
    return tokens, found.context


@dataclass
class Host:
    """A process with room for one context, which conversations take in turns."""

    runtime: Runtime
    context: Context
    before: dict[str, dict[int, str]] = field(default_factory=dict)  # digests of prompts, by length

    @classmethod
    def started(cls, scale: Scale) -> "Host":
        """Load the bundled model with the budgets of ``scale``, which a context may not exceed."""
        runtime = gptoss_mlx.load("tiny", context=scale.context)
        kept = sequence_bytes(runtime.config, scale.kept, runtime.model.weights.dtype)
        runtime.prefixes = PrefixCache(kept, Snapshots(BoundedFolder(snapshots_dir(), 4 * 10**9)))
        return cls(runtime, runtime.context())

    def turn(self, name: str, chat: Conversation, text: str) -> Turn:
        """Let ``chat`` answer ``text``, and save it. Return when all of it is on disk."""
        chat.context = self.context
        with watched() as seen:
            *_, done = chat.send(text)
        assert isinstance(done, Done)
        self.context = chat.context
        begin = time.perf_counter()
        assert self.runtime.prefixes.snapshots is not None
        self.runtime.prefixes.snapshots.writer.close()
        with opened_history() as history:
            history.save(replace(sessions.kept(chat, "chat"), name=name, id=history.find(name) or 0))
        prompt = done.usage.prompt_tokens
        earlier = self.before.setdefault(name, {})
        known = [length for length, digest in earlier.items() if digest == _digest(chat.context.ids[:length])]
        own = earlier[prompt] = _digest(chat.context.ids[:prompt])
        new = prompt - max(known, default=0)
        return Turn(name, prompt, own, new, seen["read"], seen["evicted"], seen["loaded"], time.perf_counter() - begin)


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Count what the decoder reads of prompts, and what goes to disk and comes back."""
    seen = {"read": 0, "evicted": 0, "loaded": 0}
    reals = Decoder.__call__, PrefixCache._save_trunk, Snapshots.load

    def call(self, tokens, cache):
        seen["read"] += tokens.shape[1]
        return reals[0](self, tokens, cache)

    def save(self, trunk, **how):
        seen["evicted"] += all(other is not trunk for other in self._trunks)  # others are saved while they stay
        return reals[1](self, trunk, **how)

    def load(self, *rest):
        loaded = reals[2](self, *rest)
        seen["loaded"] += loaded is not None
        return loaded

    with (
        mock.patch.object(Decoder, "__call__", call),
        mock.patch.object(PrefixCache, "_save_trunk", save),
        mock.patch.object(Snapshots, "load", load),
    ):
        yield seen


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def question(draw: random.Random) -> str:
    return f"What is {draw.randrange(1000)} + {draw.randrange(1000)}?"


def opening(runtime: Runtime, name: str, length: int) -> str:
    """Return a first message of ``length`` tokens or a few more."""
    draw = random.Random(name)
    text = ""
    while (missing := length - len(runtime.tokenizer.encode(text))) > 0:
        text += " ".join(question(draw) for _ in range(missing // 20 + 1)) + " "
    return text


def hold(scale: Scale) -> Iterator[Turn]:
    """Hold all conversations, the first two in turns."""
    host = Host.started(scale)
    chats: dict[str, Conversation] = {}

    def turn(name: str) -> Turn:
        first = name not in chats
        if first:
            chats[name] = Conversation(
                host.runtime, date="", reasoning="low", sampling=Sampling(temperature=0), max_tokens=TOKENS
            )
        text = (
            opening(host.runtime, name, scale.length)
            if first
            else question(random.Random(f"{name} {len(host.before)}"))
        )
        return host.turn(name, chats[name], text)

    for number in range(scale.turns):
        yield turn("first")
        yield turn("second")
        if number in scale.guests:
            yield turn(f"guest-{number}")


def go_on(scale: Scale, before: dict[str, dict[int, str]]) -> Iterator[Turn]:
    """Reopen all conversations in a new process and let each take a turn. ``before`` are digests of their prompts."""
    host = Host.started(scale)
    host.before = before
    alone = replace(host.runtime, prefixes=PrefixCache(0))
    for name in before:
        options = {"sampling": Sampling(temperature=0), "max_tokens": TOKENS}
        with opened_history() as history:
            saved = history.read(history.find(name) or 0)
        chat, cold = (sessions.reopened(saved, one, **options) for one in (host.runtime, alone))
        turn = host.turn(name, chat, "What is 1 + 1?")
        list(cold.send("What is 1 + 1?"))
        yield replace(turn, as_cold=[m.ids for m in chat.messages] == [m.ids for m in cold.messages])


def sample(scale: Scale) -> tuple[list[Turn], list[Turn]]:
    """Return the turns of a process that is killed after its last one, and those of the next process."""
    with tempfile.TemporaryDirectory() as home:
        held = _child(home, scale, {}, kill=True)
        before: dict[str, dict[int, str]] = {}
        for turn in held:
            before.setdefault(turn.name, {})[turn.prompt] = turn.digest
        return held, _child(home, scale, before, kill=False)


def _child(home: str, scale: Scale, before: dict[str, dict[int, str]], *, kill: bool) -> list[Turn]:
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.reports.prefixes", json.dumps([vars(scale), before])],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"GPTOSS_MAC_HOME": home},
    )
    assert program.stdout is not None
    with program, program.stdout:
        turns = []
        for line in program.stdout:
            if line == "over\n":
                break
            turns.append(Turn(**json.loads(line)))
        if kill:
            program.kill()
    assert program.returncode == (-signal.SIGKILL if kill else 0)
    return turns


def _serve(argument: str) -> None:
    options, before = json.loads(argument)
    scale = Scale(**options)
    before = {name: {int(length): digest for length, digest in digests.items()} for name, digests in before.items()}
    for turn in go_on(scale, before) if before else hold(scale):
        print(json.dumps(vars(turn)), flush=True)
    print("over", flush=True)
    if not before:
        time.sleep(3600)  # until it is killed


def wrong(turns: list[Turn]) -> list[Turn]:
    """Return the turns that read more than what is new, or that say something else than without a prefix."""
    return [turn for turn in turns if turn.read > turn.new or not turn.as_cold]


def main() -> int:
    missed = 0
    for gigabytes in MACS:
        kept, context = budgets(gigabytes)
        held, after = sample(Scale(kept=kept, context=context))
        title = f"20b on {gigabytes} GB: {kept:,} tokens in the prefix cache, {context:,} in the context"
        table = Table("turn", "prompt", "new", "read", "to disk", "from disk", "written after", title=title)
        for killed, turns in ((False, held), (True, after)):
            for turn in turns:
                counts = [f"{count:,}" for count in (turn.prompt, turn.new, turn.read, turn.evicted, turn.loaded)]
                table.add_row(turn.name, *counts, f"{turn.written * 1e3:.0f} ms")
            if not killed:
                table.add_section()
        Console(width=120).print(table)
        evicted = sum(turn.evicted for turn in held)
        bad = wrong([*held, *after])
        missed += len(bad) + (not evicted)
        print(
            f"{len(held) + len(after)} turns, of which {len(bad)} read more than was new or said what a cold one does "
            f"not; {evicted} went from memory to disk\n"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _serve(sys.argv[1])
    else:
        sys.exit(main())
