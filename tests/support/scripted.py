"""A model that says what it is told to, for a conversation and for a batch: its ids are made up, all else is real."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gptoss_mlx import conversation as conversation_module
from gptoss_mlx.batch import run as batch_run
from gptoss_mlx.batch.source import Line
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.batching import Produced
from gptoss_mlx.engine.sampling import Sampling
from gptoss_mlx.harmony import Tokenizer, render

STOPS = ("<|return|>", "<|call|>", "<|endoftext|>")


def runtime(tokenizer: Tokenizer) -> Any:
    """What conversations and batches hold, with nothing behind it."""
    return SimpleNamespace(
        tokenizer=tokenizer,
        stop_ids=frozenset(tokenizer.special[marker] for marker in STOPS if marker in tokenizer.special),
        config=SimpleNamespace(max_position_embeddings=100_000),
        folder=SimpleNamespace(path=SimpleNamespace(name="scripted")),
        model=None,
        model_key="",
        prefixes=None,
        sampling=Sampling,
        context=lambda: SimpleNamespace(ids=[0] * 10**6),
        go_on=lambda context, prompt: context,
    )


@contextmanager
def conversation(tokenizer: Tokenizer, *replies: list[int], **options: Any) -> Iterator[Conversation]:
    """A conversation whose model says these ids, one list after each prompt."""
    script = iter(replies)

    def generate(context, prompt, *, stop, cancelled, max_tokens, **_):
        for count, id in enumerate(next(script), 1):
            yield id
            if id in stop or count == max_tokens or cancelled():
                return

    with mock.patch.object(conversation_module, "generate", generate):
        yield Conversation(runtime(tokenizer), date="", **options)


def prompt_of(chat: Conversation) -> list[int]:
    """What the model would read next."""
    return render([*chat._head(), *chat.messages], chat.runtime.tokenizer)


@dataclass
class Batch:
    """Stands for the engine's: each row says the next list of ids of the ``script``, to its end or an id to stop at."""

    script: Iterator[list[int]]
    waiting: deque = field(default_factory=deque)
    rows: list[tuple[Any, deque[int]]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.rows)

    def add(self, row: Any) -> None:
        row.cached = 0
        self.asked.append(row)
        self.rows.append((row, deque(next(self.script))))

    def remove(self, id: Any) -> None:
        self.rows = [(row, ids) for row, ids in self.rows if row.id != id]

    def step(self) -> list[Produced]:
        produced = []
        for row, ids in list(self.rows):
            token = ids.popleft()
            finished = "stop" if token in row.stop else None if ids else "length"
            if finished:
                self.remove(row.id)
            produced.append(Produced(row.id, token, finished))
        return produced


def batch(
    tokenizer: Tokenizer,
    *replies: list[int],
    body: dict[str, Any],
    kind: str = "plain",
    temperature: float = 0,
    **options,
) -> tuple[list[dict], list[dict], Batch]:
    """Answer one line with these replies, none of them empty: the answers, the errors, and what was asked."""
    engine, answers, errors = Batch(iter(replies)), [], []
    run = batch_run.Run(
        runtime(tokenizer),
        SimpleNamespace(lines=lambda: iter([Line(1, "a", kind, body)])),
        SimpleNamespace(answered=set(), fixed={"date": ""}, append=answers.append),
        SimpleNamespace(append=errors.append),
        batch_run.BatchOptions(temperature=temperature, **options),
        batch_run.Tally(1, 0),
        max_rows=1,
        memory=1,
    )
    with mock.patch.object(batch_run, "Batch", return_value=engine):
        run.go(lambda tally: None, lambda: False)
    return answers, errors, engine
