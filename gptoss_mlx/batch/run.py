"""Answer the lines of a source: add rows to the engine's batch as others leave it, and write each finished answer.

The module knows the engine, harmony and both request formats. It knows nothing of files' contents or terminals.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.source import BadLine, Line, Source
from gptoss_mlx.engine.batching import Failed, Row
from gptoss_mlx.errors import ContextLengthError, EngineError, GptOssError, MemoryBudgetError, RequestError
from gptoss_mlx.harmony import Message, render, render_messages
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import Ended, Reply, ReplyReader
from gptoss_mlx.requests import Defaults, Request, chat_completions, responses
from gptoss_mlx.requests.offers import form_of

if TYPE_CHECKING:
    from gptoss_mlx.link.client import AnyRows, AnyRuntime

FAILURES = 3
"""After this many failed rows in succession, with no answer between them, the run ends: the model is at fault."""


@dataclass
class Tally:
    """Counts of a run. ``total`` is of all lines, ``before`` of those that earlier runs answered.

    ``cut_in_thought`` counts answers that are empty because the reply reached its token limit while thinking.
    ``other_models``, ``ignored``, ``not_enforced`` and ``repairs`` count model names, fields, what of schemas is not
    enforced, and kinds of repair.
    """

    total: int
    before: int
    answered: int = 0
    errors: int = 0
    cut_in_thought: int = 0
    tokens: int = 0
    begun: float = field(default_factory=time.perf_counter)
    other_models: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    not_enforced: Counter[str] = field(default_factory=Counter)
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
        """Return an estimate from the lines answered in this run, or None while there are none."""
        return self.seconds / self.answered * (self.total - self.done) if self.answered else None


@dataclass
class _Asked:
    """A line that the engine is answering. ``before`` is the first reply when this is the second attempt."""

    line: Line
    request: Request
    row: Row
    reader: ReplyReader
    before: Reply | None = None


@dataclass(frozen=True)
class BatchOptions:
    """How to answer lines that do not say it themselves. Once an answer exists, a resumed run
    must have the same options.

    ``max_tokens`` None means: up to the end of the context. With ``seed`` every line gets a seed of its own, which
    depends on its id alone. ``include_thinking`` adds the thought to the answers. ``repeat_guard`` ends replies that
    only repeat themselves. ``prompt`` is the template that made the prompts. ``schema`` is what answers are held to,
    and ``think_tokens`` the most tokens of a thought.
    """

    reasoning: Effort = "medium"
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    include_thinking: bool = False
    repeat_guard: bool = True
    prompt: str | None = None
    schema: dict[str, Any] | None = None
    think_tokens: int | None = None


@dataclass
class Run:
    """One run over the lines of ``source``, which writes ``answers`` and ``errors`` and counts in ``tally``.

    At most ``max_rows`` rows are decoded together. ``memory`` bounds their caches, in bytes. The cache of beginnings
    that lines share belongs to ``runtime`` and is not counted. ``most`` is how many lines of the source there are for
    this run, and ``only`` are the numbers of those that it shall answer, with other draws, None for all.
    """

    runtime: "AnyRuntime"
    source: Source
    answers: Answers
    errors: Errors
    options: BatchOptions
    tally: Tally
    max_rows: int = field(kw_only=True)
    memory: int | None = field(kw_only=True)
    most: int | None = field(default=None, kw_only=True)
    only: Collection[int] | None = field(default=None, kw_only=True)

    def go(self, report: Callable[[Tally], None], stopped: Callable[[], bool]) -> bool:
        """Answer all lines that have no answer yet. Return whether all are done: False after ``stopped`` returned True.

        Both functions are called at every step of the engine, ``stopped`` before it and ``report`` after it. Raises
        EngineError when the model cannot be run; the answers written before that are kept.
        """
        runtime = self.runtime
        failures = 0
        batch = runtime.batch(self.max_rows, self.memory)
        asked: dict[Hashable, _Asked] = {}  # by line number
        lines = self._to_do()
        while not stopped():
            while len(batch.waiting) < self.max_rows and (line := next(lines, None)) is not None:
                if added := self._read_and_ask(line, batch):
                    asked[line.number] = added
            if not batch.busy:
                return True
            over: set[Hashable] = set()
            for produced in batch.step():
                if produced.id in over:  # its reply ended before the last of what a constraint forced
                    continue
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
                        over.add(produced.id)
                    failures = 0
                    if again := self._end(asked.pop(produced.id), produced.finished or "stop", batch):
                        asked[produced.id] = again
            report(self.tally)
        return False

    def _to_do(self) -> Iterator[Line]:
        for line in islice(self.source.lines(), self.most):
            if str(line.id) in self.answers.answered or (self.only is not None and line.number not in self.only):
                continue
            if isinstance(line, BadLine):
                self._refuse(line, "invalid_line", line.problem)
            else:
                yield line

    def _read_and_ask(self, line: Line, batch: "AnyRows") -> _Asked | None:
        """Queue a line. Return None after writing an error for a request that cannot be answered."""
        try:
            return self._ask(line, self._read(line), batch)
        except GptOssError as error:
            codes = {ContextLengthError: "context_length_exceeded", MemoryBudgetError: "out_of_memory"}
            param = error.param if isinstance(error, RequestError) else None
            self._refuse(line, codes.get(type(error), "invalid_request"), str(error), param)
            return None

    def _ask(self, line: Line, request: Request, batch: "AnyRows", before: Reply | None = None) -> _Asked:
        runtime = self.runtime
        longest = runtime.config.max_position_embeddings
        prompt = render(request.messages, runtime.tokenizer, limit=longest)
        shared = len(render_messages(_head(request.messages), runtime.tokenizer))
        limit = request.max_tokens or longest
        context: Any = runtime.context()  # the runtime's own kind
        constraint: Any = None if request.grammar is None else runtime.constraint(request.grammar)
        row = Row(
            *(line.number, prompt, context, limit, request.sampling, runtime.stop_ids),
            shared=(shared,),
            constraint=constraint,
        )
        batch.add(row)
        reader = request.reader(runtime.tokenizer, len(prompt), guarded=self.options.repeat_guard)
        return _Asked(line, request, row, reader, before)

    def _read(self, line: Line) -> Request:
        match line.kind:
            case "chat":
                request = chat_completions.read(line.body, self._defaults)
            case "responses":
                request = responses.read(line.body, self._defaults)
            case "plain":
                request = _read_plain(line.body, self._defaults)
        if request.stream:
            raise RequestError("stream: a batch does not stream; leave it out", "stream")
        if request.n > 1:
            raise RequestError(f"n: a batch answers each line once, not {request.n} times; leave it out", "n")
        if request.likeliest is not None:
            raise RequestError("logprobs: a batch does not keep them; leave it out, or ask a server", "logprobs")
        self.tally.ignored.update(request.unknown)
        if request.model is not None and request.model != self.model:
            self.tally.other_models[request.model] += 1
        if request.grammar is not None:
            self.tally.not_enforced.update(request.grammar.warnings)
        if self.options.seed is not None and self.only is None and request.sampling.seed is None:
            request = replace(request, sampling=replace(request.sampling, seed=_seed(self.options.seed, line.id)))
        return request

    @cached_property
    def _defaults(self) -> Defaults:
        options = self.options
        sampling = self.runtime.sampling(temperature=options.temperature)
        return Defaults(
            *(sampling, options.reasoning, options.system, options.max_tokens, self.answers.fixed["date"]),
            form=None if options.schema is None else form_of("--schema", options.schema),
            thought=options.think_tokens,
        )

    @property
    def model(self) -> str:
        return self.runtime.folder.path.name

    def _refuse(self, line: Line | BadLine, code: str, problem: str, param: str | None = None) -> None:
        name = "id" if line.kind == "plain" else "custom_id"
        error = {"code": code, "message": problem, "param": param}
        self.errors.append({"line": line.number, name: line.id, "error": error})
        self.tally.errors += 1

    def _end(self, asked: _Asked, ended: Ended, batch: "AnyRows") -> _Asked | None:
        """Write the reply as an answer or an error. Return None, or the second attempt at a line.

        A reply without an answer gets a second attempt if its tokens are drawn, because chance may help.
        """
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
            problem = f"the model was asked {times} and ended its reply before an answer began"
            self._refuse(asked.line, "no_answer", problem)
            return None
        if asked.line.kind == "plain" and asked.request.held.form is not None and reply.cut_off and not reply.calls:
            problem = f"the reply was cut off ({reply.reason}) after {reply.completion_tokens} tokens"
            self._refuse(asked.line, "incomplete", f"{problem}, so its answer is not whole")
            return None
        if fault := asked.request.held.fault(reply):
            self._refuse(asked.line, "invalid_output", fault)
            return None
        self.answers.append(self._record(asked, reply))
        self.tally.answered += 1
        self.tally.cut_in_thought += reply.cut_in_thought
        return None

    def _record(self, asked: _Asked, reply: Reply) -> dict[str, Any]:
        line = asked.line
        before = asked.before
        thought = self.options.include_thinking
        attempts = {"attempts": 2, "usage_of_attempts": [_usage(before), _usage(reply)]} if before else {}
        if line.kind == "plain":
            return _plain_record(line.id, asked.request, reply, thought) | attempts
        id = hashlib.sha256(str(line.id).encode()).hexdigest()[:24]
        about: dict[str, Any] = {"id": id, "created": int(time.time()), "model": self.model, "thought": thought}
        if line.kind == "chat":
            body = chat_completions.write(reply, **about)
        else:
            body = responses.write(reply, asked.request.repeated, **about)
        response = {"status_code": 200, "request_id": f"req_{id}", "body": body}
        return {"id": f"batch_req_{id}", "custom_id": line.id, "response": response, "error": None} | attempts


def _head(messages: Iterable[Message]) -> list[Message]:
    """Return the messages before the first user message, because many lines of a file have them in common."""
    return list(takewhile(lambda message: message.role in ("system", "developer"), messages))


def _read_plain(fields: dict[str, Any], defaults: Defaults) -> Request:
    """Read a plain line: the body of a chat completion, where ``prompt`` may replace one user message."""
    body = dict(fields)
    if "prompt" in body:
        prompt = body.pop("prompt")
        if not isinstance(prompt, str):
            raise RequestError("prompt must be a string", "prompt")
        if not prompt.strip():
            raise RequestError("prompt is empty", "prompt")
        body["messages"] = [{"role": "user", "content": prompt}]
    return chat_completions.read(body, defaults, unknown_fields=True)


def _plain_record(id: str | int, request: Request, reply: Reply, thought: bool) -> dict[str, Any]:
    """Return the answer to a plain line. An answer that is held to be JSON stands there as the value that it is."""
    value = request.held.form is not None and reply.reason == "stop" and reply.stopped_by is None
    record: dict[str, Any] = {"id": id, "answer": json.loads(reply.text) if value else reply.content}
    if thought:
        record["thought"] = reply.thought
    if reply.calls:
        record["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    return record | {"finish_reason": reply.reason, "usage": _usage(reply)}


def _usage(reply: Reply) -> dict[str, int]:
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "thought_tokens")
    return {name: getattr(reply, name) for name in counts}


def _with_next_seed(request: Request) -> Request:
    """Return ``request`` with the next seed, if it has one: then a resumed run draws the same second attempt."""
    seed = request.sampling.seed
    return replace(request, sampling=replace(request.sampling, seed=None if seed is None else seed + 1))


def _seed(seed: int, id: str | int) -> int:
    """Return a seed that depends on the run's ``seed`` and the line's ``id`` alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:8])
