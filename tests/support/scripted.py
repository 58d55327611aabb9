"""A model that says the ids it is given, for a conversation and for a batch. Harmony and all else are the real code."""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptoss_mlx.batch import run as batch_run
from gptoss_mlx.batch.source import Line
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.batching import Produced, Row
from gptoss_mlx.grammars import Grammar
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.traits import STOP_MARKERS

CONTEXT_LENGTH = 100_000


@dataclass
class ScriptedModel:
    """Says the next of ``replies`` after each prompt.

    ``prompts`` are the ids it was given. ``on_id`` is called with the number of an id, from 1 on, before it is yielded.
    """

    replies: Iterator[list[int]]
    prompts: list[list[int]] = field(default_factory=list)
    on_id: Callable[[int], None] = lambda number: None

    def generate(
        self, prompt: list[int], *, max_tokens: int, stop: frozenset[int], cancelled: Callable[[], bool]
    ) -> Iterator[int]:
        self.prompts.append(prompt)
        for number, id in enumerate(next(self.replies), 1):
            self.on_id(number)
            yield id
            if id in stop or number == max_tokens or cancelled():
                return


@dataclass
class ScriptedContext:
    """A context that has read more than any prompt, so that nothing is left to prefill."""

    model: ScriptedModel
    ids: list[int] = field(default_factory=lambda: [0] * (CONTEXT_LENGTH + 1))
    resumed: int = CONTEXT_LENGTH + 1


@dataclass
class ScriptedConfig:
    max_position_embeddings: int = CONTEXT_LENGTH


@dataclass
class ScriptedFolder:
    path: Path = Path("scripted")


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


@dataclass
class ScriptedRuntime:
    """What a conversation or a batch run uses of a Runtime."""

    tokenizer: Tokenizer
    model: ScriptedModel
    config: ScriptedConfig = field(default_factory=ScriptedConfig)
    folder: ScriptedFolder = field(default_factory=ScriptedFolder)
    rows: "ScriptedBatch | None" = None
    hash: str = "scripted"
    chunk: int = 512
    prepared: Future[None] = field(default_factory=_done)

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.special[marker] for marker in STOP_MARKERS if marker in self.tokenizer.special)

    def sampling(self, temperature: float | None = None) -> Sampling:
        return Sampling(temperature=1.0 if temperature is None else temperature)

    def prepare_constraints(self) -> Future[None]:
        return self.prepared

    def constraint(self, grammar: Grammar) -> None:
        """Wait as for a vocabulary. The model says what it is given, allowed or not: what is allowed is tested with
        real models."""
        self.prepared.result()

    def context(self) -> ScriptedContext:
        return ScriptedContext(self.model)

    def go_on(self, context: ScriptedContext, prompt: list[int]) -> ScriptedContext:
        return context

    def continuation(self, context: ScriptedContext, prompt: list[int], *, max_tokens: int, cancelled, **options: Any):
        return self.model.generate(prompt, max_tokens=max_tokens, stop=self.stop_ids, cancelled=cancelled)

    def save(self, context: ScriptedContext) -> None:
        pass

    def batch(self, max_rows: int, memory: int) -> "ScriptedBatch":
        return self.rows


@contextmanager
def conversation(tokenizer: Tokenizer, *replies: list[int], date: str = "", **options: Any) -> Iterator[Conversation]:
    """A conversation whose model says these ids, one list after each prompt."""
    runtime: Any = ScriptedRuntime(tokenizer, ScriptedModel(iter(replies)))
    yield Conversation(runtime, date=date, **options)


@dataclass
class ScriptedBatch:
    """Stands for the engine's Batch: each row says the next of ``replies``, to its end or to one of the row's stop ids.

    ``asked`` are all rows that were added. Each of the ``steps`` takes ``pause`` seconds.
    """

    replies: Iterator[list[int]]
    pause: float = 0
    steps: int = 0
    waiting: deque = field(default_factory=deque)
    rows: list[tuple[Row, deque[int]]] = field(default_factory=list)
    asked: list[Row] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.rows)

    def add(self, row: Row) -> None:
        row.cached = 0
        self.asked.append(row)
        self.rows.append((row, deque(next(self.replies))))

    def remove(self, id: Hashable) -> None:
        self.rows = [(row, ids) for row, ids in self.rows if row.id != id]

    def write(self) -> bool:
        return True

    def step(self) -> list[Produced]:
        time.sleep(self.pause)
        self.steps += 1
        produced = []
        for row, ids in list(self.rows):
            token = ids.popleft()
            finished = "stop" if token in row.stop else None if ids else "length"
            if finished:
                self.remove(row.id)
            produced.append(Produced(row.id, token, finished))
        return produced


@dataclass
class OneLine:
    """Stands for a batch's source."""

    line: Line

    def lines(self) -> Iterator[Line]:
        return iter([self.line])


@dataclass
class KeptRecords:
    """Stands for a batch's files of answers and of errors, when nothing was answered before."""

    records: list[dict] = field(default_factory=list)
    answered: frozenset[str] = frozenset()
    fixed: dict[str, str] = field(default_factory=lambda: {"date": ""})

    def append(self, record: dict) -> None:
        self.records.append(record)


def batch(
    tokenizer: Tokenizer,
    *replies: list[int],
    body: dict[str, Any],
    kind: str = "plain",
    temperature: float = 0,
    **options: Any,
) -> tuple[list[dict], list[dict], ScriptedBatch]:
    """Answer one line with these replies, none of them empty. Return the answers, the errors, and the batch."""
    engine = ScriptedBatch(iter(replies))
    answers = KeptRecords()
    errors = KeptRecords()
    run = batch_run.Run(
        ScriptedRuntime(tokenizer, ScriptedModel(iter(())), rows=engine),
        OneLine(Line(1, "a", kind, body)),
        answers,
        errors,
        batch_run.BatchOptions(temperature=temperature, **options),
        batch_run.Tally(1, 0),
        max_rows=1,
        memory=1,
    )
    run.go(lambda tally: None, lambda: False)
    return answers.records, errors.records, engine
