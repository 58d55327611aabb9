"""From lines to answers: requests join the engine's batch as rows leave it, and each answer is kept as it ends."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.source import BadLine, Line, Source
from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.errors import ContextLengthError, EngineError, GptOssError, MemoryBudgetError, RequestError
from gptoss_mlx.harmony import Message, render, render_messages
from gptoss_mlx.requests import Answer, Defaults, ReplyReader, Request, chat_completions, responses
from gptoss_mlx.runtime import Runtime

FAILURES = 3
"""Rows that may fail one after the other, with nothing answered in between, before it is not the rows' fault."""


@dataclass
class Tally:
    """How far a run is. ``before`` were answered by earlier runs; ``cut_in_thought`` ended before an answer began."""

    total: int
    before: int
    answered: int = 0
    errors: int = 0
    cut_in_thought: int = 0
    tokens: int = 0
    begun: float = field(default_factory=time.perf_counter)
    other_models: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        return self.before + self.answered + self.errors

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """None while nothing has been answered to judge by."""
        if not self.answered:
            return None
        return self.seconds / self.answered * (self.total - self.done)


@dataclass
class _Asked:
    line: Line
    request: Request
    row: Row
    reader: ReplyReader


@dataclass
class Run:
    """One run over an input. ``memory`` bounds the rows' caches, in bytes; what lines have in common is the runtime's
    to keep. ``seed`` gives every line draws of its own, the same whenever it is answered.
    """

    runtime: Runtime
    source: Source
    answers: Answers
    errors: Errors
    defaults: Defaults
    tally: Tally
    max_rows: int
    memory: int
    thought: bool = False
    seed: int | None = None

    def go(self, report: Callable[[Tally], None], stopped: Callable[[], bool]) -> bool:
        """Answer what is not answered yet; True when through. ``stopped`` is asked before each step.

        Raises EngineError when the model cannot be run at all; what is answered by then is kept.
        """
        runtime, failures = self.runtime, 0
        batch = Batch(runtime.model, self.max_rows, self.memory, prefixes=runtime.prefixes, model_key=runtime.model_key)
        asked: dict[Hashable, _Asked] = {}  # by line number
        lines = self._to_do()
        while not stopped():
            while len(batch.waiting) < self.max_rows and (line := next(lines, None)) is not None:
                if added := self._ask(line, batch):
                    asked[line.number] = added
            if not batch.busy:
                return True
            for produced in batch.step():
                if isinstance(produced, Failed):
                    failures += 1
                    if failures == FAILURES:
                        raise EngineError(f"{failures} lines in a row cannot be computed: {produced.problem}")
                    self._refuse(asked.pop(produced.id).line, "failed", produced.problem)
                    continue
                reader = asked[produced.id].reader
                reader.feed(produced.token)
                self.tally.tokens += 1
                if produced.finished or reader.over:
                    if not produced.finished:
                        batch.remove(produced.id)
                    self._keep(asked.pop(produced.id), produced.finished or "stop")
                    failures = 0
            report(self.tally)
        return False

    def _to_do(self) -> Iterator[Line]:
        for line in self.source.lines():
            if str(line.id) in self.answers.answered:
                continue
            if isinstance(line, BadLine):
                self._refuse(line, "invalid_line", line.problem)
            else:
                yield line

    def _ask(self, line: Line, batch: Batch) -> _Asked | None:
        """Queue a row; None, with the reason among the errors, for a request that cannot be answered."""
        try:
            request = self._read(line)
            prompt = render(request.messages, self.runtime.tokenizer)
            limit = request.max_tokens or self.runtime.config.max_position_embeddings
            context, stop = self.runtime.context(), self.runtime.stop_ids
            shared = len(render_messages(_head(request.messages), self.runtime.tokenizer))
            row = Row(line.number, prompt, context, limit, request.sampling, stop, shared)
            batch.add(row)
        except GptOssError as error:
            codes = {ContextLengthError: "context_length_exceeded", MemoryBudgetError: "out_of_memory"}
            param = error.param if isinstance(error, RequestError) else None
            self._refuse(line, codes.get(type(error), "invalid_request"), str(error), param)
            return None
        return _Asked(line, request, row, ReplyReader(self.runtime.tokenizer, len(prompt), request.stop))

    def _read(self, line: Line) -> Request:
        match line.kind:
            case "chat":
                request = chat_completions.read(line.body, self.defaults)
            case "responses":
                request = responses.read(line.body, self.defaults)
            case "plain":
                request = _read_plain(line.body, self.defaults)
        if request.stream:
            raise RequestError("stream: a batch does not stream; leave it out", "stream")
        self.tally.ignored.update(request.unknown)
        if request.model is not None and request.model != self.model:
            self.tally.other_models[request.model] += 1
        if self.seed is not None and request.sampling.seed is None:
            request = replace(request, sampling=replace(request.sampling, seed=_seed(self.seed, line.id)))
        return request

    @property
    def model(self) -> str:
        return self.runtime.folder.path.name

    def _refuse(self, line: Line | BadLine, code: str, problem: str, param: str | None = None) -> None:
        name = "id" if line.kind == "plain" else "custom_id"
        error = {"code": code, "message": problem, "param": param}
        self.errors.append({"line": line.number, name: line.id, "error": error})
        self.tally.errors += 1

    def _keep(self, asked: _Asked, ended: Literal["stop", "length"]) -> None:
        answer = asked.reader.finish(ended, asked.row.cached or 0)
        self.answers.append(self._record(asked, answer))
        self.tally.answered += 1
        self.tally.cut_in_thought += answer.cut_in_thought

    def _record(self, asked: _Asked, answer: Answer) -> dict[str, Any]:
        line = asked.line
        if line.kind == "plain":
            return _plain_record(line.id, answer, self.thought)
        id = hashlib.sha256(str(line.id).encode()).hexdigest()[:24]
        about: dict[str, Any] = {"id": id, "created": int(time.time()), "model": self.model, "thought": self.thought}
        if line.kind == "chat":
            body = chat_completions.write(answer, **about)
        else:
            body = responses.write(answer, asked.request.repeated, **about)
        response = {"status_code": 200, "request_id": f"req_{id}", "body": body}
        return {"id": f"batch_req_{id}", "custom_id": line.id, "response": response, "error": None}


def _head(messages: Iterable[Message]) -> list[Message]:
    """What comes before the first word of the user's: the part that many lines of a file have in common."""
    return list(takewhile(lambda message: message.role in ("system", "developer"), messages))


def _read_plain(fields: dict[str, Any], defaults: Defaults) -> Request:
    """A plain line is a chat completion's body, in which ``prompt`` may stand for one message of the user's."""
    body = dict(fields)
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise RequestError("prompt must be a string", "prompt")
        if not prompt.strip():
            raise RequestError("prompt is empty", "prompt")
        body["messages"] = [{"role": "user", "content": prompt}]
    return chat_completions.read(body, defaults, unknown_fields=True)


def _plain_record(id: str | int, answer: Answer, thought: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"id": id, "answer": answer.content}
    if thought:
        record["thought"] = answer.thought
    if answer.calls:
        record["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in answer.calls]
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "thought_tokens")
    return record | {"finish_reason": answer.reason, "usage": {name: getattr(answer, name) for name in counts}}


def _seed(seed: int, id: str | int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:8])
