"""One chat: its history, what the model may call, and replies as they come.

Knows harmony and the runtime; knows nothing of terminals, HTTP or how a tool does its work. The thought of a finished
turn is dropped from what the model reads next, and the cache goes back to before it, so a turn reads only what is new.
"""

import json
import re
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date as today
from typing import Any, Literal, get_args

from gptoss_mlx.engine.context import Cancelled
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.sampling import Sampling
from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import (
    Delta,
    Developer,
    Function,
    Message,
    MessageEnd,
    MessageStart,
    ReplyEnd,
    StreamParser,
    System,
    render,
    render_messages,
    tool_result,
)
from gptoss_mlx.harmony import Event as Parsed
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.runtime import Runtime

Reason = Literal["stop", "tool_calls", "length", "cancelled", "tool_limit"]
"""``length``: the token limit or the end of the context. ``tool_limit``: too many calls in a row without an answer."""

TOOL_ROUNDS = 8
"""Calls a model may make after one user message, failed ones included."""


@dataclass(frozen=True)
class Thought:
    """More of the chain of thought."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the answer, or of what is said to the user before a tool is called."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A declared function is to be called. Answer with ``Conversation.send_tool_result``."""

    name: str
    arguments: dict[str, Any]
    message: Message


@dataclass(frozen=True)
class ToolError:
    """A call that cannot be made was answered with ``problem``; the model goes on."""

    name: str
    problem: str


@dataclass(frozen=True)
class Usage:
    """Counts of tokens and seconds of one ``send``. ``cached_tokens`` of the prompt did not have to be read."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int
    seconds: float
    time_to_first_token: float | None
    tokens_per_second: float


@dataclass(frozen=True)
class Done:
    """The last event. ``cut_in_thought``: it stopped before any answer began, and a thought is no answer.
    ``context_full``: no limit of the caller's ended it, there is no room for more in this conversation.
    """

    reason: Reason
    usage: Usage
    cut_in_thought: bool = False
    context_full: bool = False


Event = Thought | Text | ToolCall | ToolError | Done


@dataclass
class Conversation:
    """A conversation with a loaded model. Iterate over what ``send`` returns to the end, or close it to cancel; the
    next ``send`` closes it too.

    A cancelled reply keeps the answer text that came, as if the model had ended there; if none came, the message it was
    to answer is forgotten too. ``functions`` are harmony's or OpenAI's JSON declarations. ``date`` (ISO; today's by
    default, "" for none) is fixed for the conversation, or it would have to be re-read at midnight. ``on_prefill`` is
    told (tokens read, tokens of the prompt). Raises UsageError for values out of range, HarmonyError for declarations
    that cannot be rendered, ModelFolderError for a model without a tokenizer.
    """

    runtime: Runtime
    reasoning: Effort = field(default="medium", kw_only=True)
    instructions: str | None = field(default=None, kw_only=True)
    functions: Sequence[Function | Mapping[str, Any]] = field(default=(), kw_only=True)
    date: str | None = field(default=None, kw_only=True)
    sampling: Sampling | None = field(default=None, kw_only=True)
    max_tokens: int | None = field(default=None, kw_only=True)
    on_prefill: Callable[[int, int], None] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}; it must be 1 or more")
        self.date = today.today().isoformat() if self.date is None else self.date
        self.sampling = self.sampling or self.runtime.sampling()
        self.functions = tuple(_function(declared) for declared in self.functions)
        self.messages: list[Message] = []  # after the system's and the developer's
        self._awaited: ToolCall | None = None
        self._rounds = 0
        self._cancelled = False
        self._under_way: Callable[[], Generator[Event] | None] = lambda: None
        self.context = self.runtime.context()
        render(self._head(), self.runtime.tokenizer)  # refuses now what would fail at the first message

    def send(self, text: str) -> Iterator[Event]:
        """Say something; the reply's events. A call still unanswered is left behind."""
        if not text.strip():
            raise UsageError("the message is empty")
        return self._begin(Message("user", text))

    def send_tool_result(self, call: ToolCall, output: str) -> Iterator[Event]:
        """Answer the call that ended the last reply; the events of what the model says to it."""
        self._end()
        if call is not self._awaited:
            raise UsageError(f"the call of '{call.name}' is not the one awaiting a result")
        return self._begin(tool_result(call.message, output))

    def cancel(self) -> None:
        """Stop the reply under way at its next token or prefill chunk. Safe from a signal handler or another thread."""
        self._cancelled = True

    def clear(self) -> None:
        """Forget everything said."""
        self._end()
        self.messages, self._awaited = [], None

    def settle(self) -> None:
        """Take the cache back to where the next message will go on from, when no reply is under way."""
        self.context = self.runtime.go_on(self.context, self._next_prompt())

    def to_read(self) -> tuple[int, int]:
        """How many tokens of what was said so far the next message has to read, and how many there are.

        The last answer's, where nothing was changed. Effort, instructions, functions and date stand at the beginning:
        after a change all are read, unless this very beginning was read before.
        """
        prompt = self._next_prompt()
        return len(prompt) - self.runtime.reusable(self.context, prompt), len(prompt)

    def _next_prompt(self) -> list[int]:
        """What the next message's prompt begins with, and an empty message."""
        return render([*self._head(), *self.messages, Message("user", "")], self.runtime.tokenizer)

    def _begin(self, message: Message) -> Iterator[Event]:
        """The events of a new reply. One that was left in the middle would write into the same history: it ends."""
        self._end()
        events = self._reply(message)
        self._under_way = weakref.ref(events)  # weak, so that it still ends at once when it is dropped
        return events

    def _end(self) -> None:
        """Close a reply that is still under way, as its reader may do."""
        if events := self._under_way():
            events.close()

    def _head(self) -> list[Message]:
        """What precedes the conversation; made anew each time, so that effort and instructions may be changed."""
        if self.reasoning not in get_args(Effort):
            raise UsageError(f"reasoning is '{self.reasoning}'; use low, medium or high")
        head = [Message("system", System(self.reasoning, self.date))]
        if self.instructions or self.functions:
            head.append(Message("developer", Developer(self.instructions or None, tuple(self.functions))))  # type: ignore[arg-type]
        return head

    def _reply(self, message: Message) -> Generator[Event]:
        """Add ``message`` and generate until there is an answer, a call to make, or a reason to stop."""
        before, awaited, rounds = len(self.messages), self._awaited, self._rounds
        self.messages.append(message)
        self._awaited, self._cancelled = None, False
        self._rounds = 0 if message.role == "user" else rounds
        meter = _Meter()
        finished = False
        try:
            while True:
                reply = _Reply(StreamParser(self.runtime.tokenizer))
                yield from self._generate(reply, meter)
                if self._cancelled:
                    break
                if reply.call is None:
                    finished = True
                    full = len(self.context.ids) + 1 >= self.runtime.config.max_position_embeddings
                    reason: Reason = "length" if reply.cut_off else "stop"
                    yield Done(reason, meter.usage(), reply.cut_in_thought, reply.cut_off and full)
                    return
                self._rounds += 1
                call, problem = self._check(reply.call)
                if problem is None:
                    finished, self._awaited = True, call
                    yield call
                    yield Done("tool_calls", meter.usage())
                    return
                self.messages.append(tool_result(reply.call, problem))
                yield ToolError(call.name, problem)
                if self._rounds >= TOOL_ROUNDS:
                    finished = True
                    yield Done("tool_limit", meter.usage())
                    return
        finally:
            if not finished:
                self._take_back(before, awaited, rounds)
        yield Done("cancelled", meter.usage(), reply.cut_in_thought)

    def _take_back(self, before: int, awaited: ToolCall | None, rounds: int) -> None:
        """After a cancelled or failed reply: keep what the user saw of it, else be as before it was asked for."""
        if self.messages[-1].role == "assistant" and self.messages[-1].recipient:
            del self.messages[-1]  # a call nobody will answer
        if not any(message.role == "assistant" and _visible(message) for message in self.messages[before:]):
            del self.messages[before:]
            self._awaited, self._rounds = awaited, rounds

    def _generate(self, reply: "_Reply", meter: "_Meter") -> Iterator[Event]:
        """One prompt, one reply. Each of its messages enters the history when it ends, or when generation does."""
        prompt = render([*self._head(), *self.messages], self.runtime.tokenizer)
        self.context = self.runtime.go_on(self.context, prompt)
        meter.start(prompt, len(self.context.ids))
        room = self.runtime.config.max_position_embeddings
        ids = generate(
            self.context,
            prompt,
            max_tokens=self.max_tokens or room,
            sampling=self.sampling or Sampling(),
            stop=self.runtime.stop_ids,
            cancelled=lambda: self._cancelled,
            progress=self.on_prefill,
        )
        try:
            self._read_head(prompt)
            for id in ids:
                events = reply.parser.feed(id)
                meter.count(thinking=reply.thinking)
                for event in events:
                    yield from self._take(event, reply)
                if reply.speaks_for_others:
                    return
        except Cancelled:
            return
        finally:
            ids.close()  # type: ignore[attr-defined]
            for event in reply.parser.finish():
                reply.rest += list(self._take(event, reply))
        yield from reply.rest

    def _read_head(self, prompt: list[int]) -> None:
        """Read what precedes the conversation, and leave it where another with the same beginning finds it."""
        head = len(render_messages(self._head(), self.runtime.tokenizer))
        if len(self.context.ids) < head:
            self.context.read(prompt[:head], cancelled=lambda: self._cancelled)
            self.context.mark()
            self.runtime.prefixes.keep(self.runtime.model_key, self.context)

    def _take(self, event: Parsed, reply: "_Reply") -> Iterator[Event]:
        match event:
            case MessageStart(kind, _):
                reply.thinking = kind == "thought"
                reply.speaks_for_others |= kind == "other"
            case Delta("thought", text):
                yield Thought(text)
            case Delta("answer" | "preamble", text):
                yield Text(text)
            case MessageEnd("call", message, complete):
                if complete:
                    self.messages.append(message)
                    reply.call = message
            case MessageEnd(kind, message, _):
                reply.thinking = False
                reply.answered |= kind in ("answer", "preamble")
                if kind != "other" and message.content:
                    self.messages.append(message)
            case ReplyEnd(stop, cut_off):
                reply.cut_off = stop == "limit" and not reply.speaks_for_others
                reply.cut_in_thought = reply.cut_off and (cut_off == "thought" or not reply.answered)

    def _check(self, message: Message) -> tuple[ToolCall, str | None]:
        """The call, and what is wrong with it in words for the model."""
        name = (message.recipient or "").removeprefix("functions.")
        known = [declared.name for declared in self.functions if isinstance(declared, Function)]
        try:
            arguments = json.loads(str(message.content) or "{}")
        except (ValueError, RecursionError) as error:
            return ToolCall(name, {}, message), f"Error: the arguments are not valid JSON: {error}"
        call = ToolCall(name, arguments, message)
        if name not in known:
            return call, f"Error: there is no tool '{message.recipient}'; available: {', '.join(known) or 'none'}"
        if not isinstance(arguments, dict):
            return call, "Error: the arguments are not a JSON object"
        return call, None


@dataclass
class _Reply:
    """What is known of the reply being read."""

    parser: StreamParser
    call: Message | None = None
    thinking: bool = False
    answered: bool = False
    speaks_for_others: bool = False
    cut_off: bool = False
    cut_in_thought: bool = False
    rest: list[Event] = field(default_factory=list)  # of the parser's end


@dataclass
class _Meter:
    """Counts one ``send``, over all the replies it takes."""

    begun: float = field(default_factory=time.perf_counter)
    prompt: int = 0
    cached: int = 0
    tokens: int = 0
    thought: int = 0
    first: float | None = None
    last: float = 0.0

    def start(self, prompt: list[int], cached: int) -> None:
        self.prompt, self.cached = len(prompt), self.cached if self.prompt else cached

    def count(self, *, thinking: bool) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.tokens += 1
        self.thought += thinking

    def usage(self) -> Usage:
        between = self.last - (self.first or self.last)
        return Usage(
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            completion_tokens=self.tokens,
            thought_tokens=self.thought,
            seconds=time.perf_counter() - self.begun,
            time_to_first_token=None if self.first is None else self.first - self.begun,
            tokens_per_second=(self.tokens - 1) / between if between > 0 else 0.0,
        )


def _visible(message: Message) -> bool:
    return message.channel != "analysis" and message.recipient is None and bool(message.content)


def _function(declared: Function | Mapping[str, Any]) -> Function:
    """A declaration as harmony has it, or as OpenAI's chat or responses API has it."""
    if not isinstance(declared, Function):
        inner = declared.get("function", declared) if isinstance(declared, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise UsageError(f"a function declaration has no name: {str(declared)[:80]!r}")
        declared = Function(inner["name"], inner.get("description") or "", inner.get("parameters"))
    if not re.fullmatch(r"[^\s<>|{]+", declared.name):
        raise UsageError(f"a function cannot be called {declared.name!r:.80}; use letters, digits, _ and -")
    if not isinstance(declared.description, str):
        raise UsageError(f"the description of function '{declared.name}' is not text")
    if not isinstance(declared.parameters, Mapping | None):
        raise UsageError(f"the parameters of function '{declared.name}' are no JSON schema")
    return declared
