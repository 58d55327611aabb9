"""From lines to answers: requests join the engine's batch as rows leave it, and each answer is kept as it ends."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.source import BadLine, Line, Source
from gptoss_mlx.engine.batching import Batch, Failed, Row
from gptoss_mlx.errors import ContextLengthError, EngineError, GptOssError, MemoryBudgetError, RequestError
from gptoss_mlx.harmony import Message, render, render_messages
from gptoss_mlx.reply import Ended, Reply, ReplyReader
from gptoss_mlx.requests import Defaults, Request, chat_completions, responses
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
    repairs: Counter[str] = field(default_factory=Counter)

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
    """A line under way. ``before`` is the reply without an answer for which it is asked a second time."""

    line: Line
    request: Request
    row: Row
    reader: ReplyReader
    before: Reply | None = None


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
        batch = Batch(runtime.model, self.max_rows, self.memory, prefix_view=runtime.prefix_view)
        asked: dict[Hashable, _Asked] = {}  # by line number
        lines = self._to_do()
        while not stopped():
            while len(batch.waiting) < self.max_rows and (line := next(lines, None)) is not None:
                if added := self._read_and_ask(line, batch):
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
                    failures = 0
                    if again := self._end(asked.pop(produced.id), produced.finished or "stop", batch):
                        asked[produced.id] = again
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

    def _read_and_ask(self, line: Line, batch: Batch) -> _Asked | None:
        """Queue a line; None, with the reason among the errors, for a request that cannot be answered."""
        try:
            return self._ask(line, self._read(line), batch)
        except GptOssError as error:
            codes = {ContextLengthError: "context_length_exceeded", MemoryBudgetError: "out_of_memory"}
            param = error.param if isinstance(error, RequestError) else None
            self._refuse(line, codes.get(type(error), "invalid_request"), str(error), param)
            return None

    def _ask(self, line: Line, request: Request, batch: Batch, before: Reply | None = None) -> _Asked:
        runtime, longest = self.runtime, self.runtime.config.max_position_embeddings
        prompt = render(request.messages, runtime.tokenizer, limit=longest)
        shared = len(render_messages(_head(request.messages), runtime.tokenizer))
        limit = request.max_tokens or longest
        row = Row(line.number, prompt, runtime.context(), limit, request.sampling, runtime.stop_ids, shared=shared)
        batch.add(row)
        reader = ReplyReader(runtime.tokenizer, len(prompt), request.stop, request.functions)
        return _Asked(line, request, row, reader, before)

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

    def _end(self, asked: _Asked, ended: Ended, batch: Batch) -> _Asked | None:
        """Keep the reply, or say why it is no answer; or ask once more, where chance may help."""
        reply = asked.reader.finish(ended, asked.row.cached or 0)
        self.tally.repairs.update(reply.repairs)
        if reply.unknown_calls:
            name = reply.unknown_calls[0].name[:80]
            self._refuse(asked.line, "unknown_tool", f"the model called {name!r}, which the request does not offer")
            return None
        if reply.no_answer and asked.before is None and asked.request.sampling.temperature > 0:
            return self._ask(asked.line, _with_next_seed(asked.request), batch, reply)
        if reply.no_answer:
            times = "twice" if asked.before else "once"
            self._refuse(asked.line, "no_answer", f"the model, asked {times}, ended its reply before an answer began")
            return None
        self.answers.append(self._record(asked, reply))
        self.tally.answered += 1
        self.tally.cut_in_thought += reply.cut_in_thought
        return None

    def _record(self, asked: _Asked, reply: Reply) -> dict[str, Any]:
        line, before = asked.line, asked.before
        attempts = {"attempts": 2, "usage_of_attempts": [_usage(before), _usage(reply)]} if before else {}
        if line.kind == "plain":
            return _plain_record(line.id, reply, self.thought) | attempts
        id = hashlib.sha256(str(line.id).encode()).hexdigest()[:24]
        about: dict[str, Any] = {"id": id, "created": int(time.time()), "model": self.model, "thought": self.thought}
        if line.kind == "chat":
            body = chat_completions.write(reply, **about)
        else:
            body = responses.write(reply, asked.request.repeated, **about)
        response = {"status_code": 200, "request_id": f"req_{id}", "body": body}
        return {"id": f"batch_req_{id}", "custom_id": line.id, "response": response, "error": None} | attempts


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


def _plain_record(id: str | int, reply: Reply, thought: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"id": id, "answer": reply.content}
    if thought:
        record["thought"] = reply.thought
    if reply.calls:
        record["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    return record | {"finish_reason": reply.reason, "usage": _usage(reply)}


def _usage(reply: Reply) -> dict[str, int]:
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "thought_tokens")
    return {name: getattr(reply, name) for name in counts}


def _with_next_seed(request: Request) -> Request:
    """The same with other draws, and the same others whenever the line is answered."""
    seed = request.sampling.seed
    return replace(request, sampling=replace(request.sampling, seed=None if seed is None else seed + 1))


def _seed(seed: int, id: str | int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:8])
