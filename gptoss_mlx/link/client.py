"""A model in a server of this machine, with the faces of a runtime and of a batch."""

import json
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from gptoss_mlx.errors import ContextLengthError, EngineError, MemoryBudgetError, ModelFolderError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.link.connection import GONE, POLL_SECONDS, Connection, Served, find_server, model_of
from gptoss_mlx.link.protocol import Message, to_error
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.score import Score
from gptoss_mlx.traits import default_sampling, load_tokenizer, model_hash, stop_ids

if TYPE_CHECKING:
    from gptoss_mlx.engine.batching import Batch, Failed, Produced, Row
    from gptoss_mlx.grammars import Grammar
    from gptoss_mlx.runtime import Runtime

    AnyRuntime: TypeAlias = "Runtime | RemoteRuntime"
    AnyRows: TypeAlias = "Batch | RemoteRows"


@dataclass(frozen=True)
class SmallFolder:
    """What is used of a model folder where the weights are not: its small files."""

    path: Path

    @cached_property
    def generation(self) -> dict[str, Any]:
        """Return the generation defaults."""
        return json.loads((self.path / "generation_config.json").read_bytes())

    @property
    def tokenizer_path(self) -> Path | None:
        """Return the file of the tokenizer, or None if the folder has none."""
        path = self.path / "tokenizer.bin"
        return path if path.exists() else None


@dataclass(frozen=True)
class Window:
    """Stands for a model's config: how many ids its context holds as it is loaded, and a row's ids with its reply's."""

    max_position_embeddings: int
    row_tokens: int


@dataclass
class RemoteContext:
    """What a conversation's model has read in the server. Nothing is kept for it alone: the server's prefixes are."""

    ids: list[int] = field(default_factory=list)
    resumed: int = 0


@dataclass(frozen=True)
class RemoteConstraint:
    """A grammar as text, which the server follows. ``end`` is an id that ends a reply."""

    text: str
    end: int


@dataclass
class RemoteRuntime:
    """A model that a server has in memory, with the faces of ``runtime.Runtime``."""

    served: Served
    connection: Connection

    @cached_property
    def folder(self) -> SmallFolder:
        """Return the model's folder. Raises ModelFolderError if it is no longer the one that the server loaded."""
        try:
            same = model_hash(self.served.folder) == self.served.hash
        except OSError:
            same = False
        if not same:
            raise ModelFolderError(f"{self.served.folder}: has changed since the server loaded it; start that again")
        return SmallFolder(self.served.folder)

    @cached_property
    def config(self) -> Window:
        """Return the limits that the server's plan sets. Loads the model there if it is not in memory."""
        said = self._ask("open")["value"]
        return Window(said["context"], said["row_tokens"])

    @property
    def hash(self) -> str:
        """Return what identifies the weights and the vocabulary."""
        return self.served.hash

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Load the model's tokenizer. Raises ModelFolderError."""
        return load_tokenizer(self.folder)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Return the ids that end generation."""
        return stop_ids(self.folder, self.tokenizer.special)

    @property
    def row_memory(self) -> None:
        """Return None: the server admits rows by its own plan."""
        return None

    def sampling(
        self,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> Sampling:
        """Return a Sampling of the given values, with the folder's generation defaults in place of None."""
        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        return default_sampling(self.folder, given, seed)

    def context(self) -> RemoteContext:
        """Return a new context."""
        return RemoteContext()

    def prepare_constraints(self) -> "Future[Any]":
        """Return that nothing is to be waited for here: the server builds what it needs."""
        ready: Future[Any] = Future()
        ready.set_result(None)
        return ready

    def constraint(self, grammar: "Grammar") -> RemoteConstraint:
        """Return what has the server hold one row to ``grammar``."""
        return RemoteConstraint(grammar.to_text(), self.tokenizer.special["<|return|>"])

    def reusable(self, context: RemoteContext, prompt: list[int]) -> int:
        """Return how many ids of ``prompt`` need not be read."""
        return self._ask("reusable", prompt=prompt)["value"]

    def go_on(self, context: RemoteContext, prompt: list[int]) -> RemoteContext:
        """Return the context to continue ``prompt`` from."""
        return context

    def continuation(
        self,
        context: RemoteContext,
        prompt: list[int],
        *,
        head: int,
        max_tokens: int,
        sampling: Sampling,
        constraint: "RemoteConstraint | None" = None,
        cancelled: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generator[int]:
        """Have the server read ``prompt``, and yield the ids that follow, as ``Runtime.continuation`` does. Raises the
        server's errors, and EngineError if the server ends."""
        context.ids = []
        context.resumed = 0
        connection = self._connected()
        max_tokens = min(max_tokens, max(self.config.row_tokens - len(prompt), 1))
        row = _row(prompt, max_tokens, sampling, self.stop_ids, (head, len(prompt)), constraint)
        id = connection.request("generate", model=self.served.name, **row)
        over = False
        last: int | None = None
        try:
            while not over:
                message = connection.receive(POLL_SECONDS)
                if cancelled is not None and cancelled():
                    return
                if message is None or message.get("id") != id:
                    continue
                if "error" in message:
                    over = True
                    raise to_error(message["error"])
                if "read" in message:
                    if progress is not None:
                        progress(message["read"], len(prompt))
                    continue
                context.resumed = message["cached"]
                over = message["finished"] is not None
                for token in message["tokens"]:
                    context.ids += prompt if last is None else [last]  # the last id given out is not read yet
                    last = token
                    yield token
                    if cancelled is not None and cancelled():
                        return
        finally:
            if not over:
                connection.end(id)

    def save(self, context: RemoteContext) -> None:
        """Do nothing: the server writes what it has read to disk."""

    def batch(self, max_rows: int, memory: int | None) -> "RemoteRows":
        """Return an empty batch of at most ``max_rows`` rows at once."""
        return RemoteRows(self, max_rows)

    def score(self, ids: list[int], top: int) -> list[Score]:
        """Return how likely each of ``ids`` but the first is, as ``Runtime.score`` does."""
        scores = self._ask("score", ids=ids, top=top)["scores"]
        return [Score(logprob, tuple((id, value) for id, value in likeliest)) for logprob, likeliest in scores]

    def close(self) -> None:
        """Leave the server."""
        self.connection.close()

    def notice(self) -> None:
        """Return None: the server says what there is to say."""
        return None

    def _ask(self, do: str, **fields: Any) -> Message:
        connection = self._connected()
        return connection.answer(connection.request(do, model=self.served.name, **fields))

    def _connected(self) -> Connection:
        """Return the connection, to another server if the one before has ended and another has the same model."""
        if self.connection.broken:
            found = find_server()
            served = model_of(found, self.served.hash) if found is not None else None
            if found is None or served is None:
                raise EngineError(GONE)
            self.connection, self.served = found, served
        return self.connection


@dataclass
class RemoteRows:
    """Rows that the server generates together with those of others, with the faces of ``engine.batching.Batch``."""

    runtime: RemoteRuntime
    max_rows: int
    waiting: "deque[Row]" = field(default_factory=deque, init=False)
    _asked: "dict[int, Row]" = field(default_factory=dict, init=False)

    @property
    def busy(self) -> bool:
        """Return whether any row is left."""
        return bool(self.waiting or self._asked)

    def add(self, row: "Row") -> None:
        """Queue a row. Raises ContextLengthError or MemoryBudgetError for one that can never run."""
        window = self.runtime.config
        limit = window.max_position_embeddings
        if len(row.prompt) >= limit:
            raise ContextLengthError.of(len(row.prompt), limit)
        row.max_tokens = min(row.max_tokens, limit - len(row.prompt))
        if len(row.prompt) + row.max_tokens > window.row_tokens:
            raise MemoryBudgetError(
                f"{row.max_tokens:,} tokens after a prompt of {len(row.prompt):,} do not fit in the server's memory, "
                f"which holds {window.row_tokens:,}; ask for fewer tokens"
            )
        self.waiting.append(row)

    def remove(self, id: Hashable) -> None:
        """Remove a row."""
        self.waiting = deque(row for row in self.waiting if row.id != id)
        for asked in [asked for asked, row in self._asked.items() if row.id == id]:
            del self._asked[asked]
            self.runtime.connection.end(asked)

    def step(self) -> "list[Produced | Failed]":
        """Send the rows that may run, wait a moment, and return what has come. Raises EngineError if the server has
        ended."""
        connection = self.runtime.connection
        while self.waiting and len(self._asked) < self.max_rows:
            row = self.waiting.popleft()
            fields = _row(row.prompt, row.max_tokens, row.sampling, row.stop, row.shared, row.constraint)
            self._asked[connection.request("generate", model=self.runtime.served.name, **fields)] = row
        message = connection.receive(POLL_SECONDS) if self._asked else None
        outcomes: list[Produced | Failed] = []
        while message is not None:
            outcomes += self._take(message)
            message = connection.receive(0)
        return outcomes

    def _take(self, message: Message) -> "list[Produced | Failed]":
        from gptoss_mlx.engine.stepping import Failed, Produced

        row = self._asked.get(message.get("id", 0))
        if row is None:
            return []
        if "error" in message:
            del self._asked[message["id"]]
            return [Failed(row.id, to_error(message["error"]))]
        if "tokens" not in message:
            return []
        row.cached = message["cached"]
        *before, last = message["tokens"]
        if message["finished"] is not None:
            del self._asked[message["id"]]
        return [*(Produced(row.id, token, None) for token in before), Produced(row.id, last, message["finished"])]


def _row(
    prompt: list[int],
    max_tokens: int,
    sampling: Sampling,
    stop: Iterable[int],
    shared: Iterable[int],
    constraint: object,
) -> Message:
    assert constraint is None or isinstance(constraint, RemoteConstraint), "made by another runtime"
    return {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "sampling": asdict(sampling),
        "stop": sorted(stop),
        "shared": list(shared),
        "constraint": constraint and constraint.text,
    }
