"""One chat: its history, what the model may call, and replies as they come.

Knows harmony and the runtime; knows nothing of terminals, HTTP or how a tool does its work. The thought of a finished
turn is dropped from what the model reads next, and the cache goes back to before it, so a turn reads only what is new.
"""

import json
import re
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date as today
from itertools import takewhile
from typing import Any, Literal, get_args

from gptoss_mlx.arguments import whole
from gptoss_mlx.engine.context import Cancelled
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.sampling import Sampling
from gptoss_mlx.errors import UsageError, quoted
from gptoss_mlx.harmony import Developer, Function, Message, System, render, render_messages, tool_result
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import Call, Ended, Piece, Reply, ReplyReader
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.text_input import without_surrogates

Reason = Literal["stop", "tool_calls", "length", "cancelled", "tool_limit"]
"""``length``: the token limit or the end of the context. ``tool_limit``: too many calls in a row without an answer."""

TOOL_ROUNDS = 8
"""Calls after one user message from which on one that cannot be made ends the turn. Those that can be made are handed
out however many there are: whoever answers them decides how long that goes on."""


@dataclass(frozen=True)
class Thought:
    """More of the chain of thought."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the answer, or of what is said to the user before a tool is called."""

    text: str


@dataclass(frozen=True, eq=False)
class ToolCall:
    """A declared function is to be called. Answer with ``Conversation.send_tool_result``; a reply may make several."""

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
    ``context_full``: no limit of the caller's ended it, there is no room for more in this conversation. ``no_answer``:
    the model ended its reply and had said nothing. ``repairs`` counts what had to be guessed or left out of the
    replies, by kind.
    """

    reason: Reason
    usage: Usage
    cut_in_thought: bool = False
    context_full: bool = False
    no_answer: bool = False
    repairs: Mapping[str, int] = field(default_factory=dict)


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
        if self.max_tokens is not None:
            self.max_tokens = whole("max_tokens", self.max_tokens, 1, "a whole number, 1 or more")
        if not isinstance(self.sampling, Sampling | None):
            raise UsageError(f"sampling is {quoted(self.sampling, 40)}; give what runtime.sampling() makes")
        self.date = today.today().isoformat() if self.date is None else self.date
        self.sampling = self.sampling or self.runtime.sampling()
        self.functions = tuple(_function(declared) for declared in self.functions)
        self.messages: list[Message] = []  # after the system's and the developer's
        self._awaited: list[ToolCall] = []  # handed out in the last reply, without a result yet
        self._given_back: list[ToolCall] = []  # those awaited again if the reply under way comes to nothing
        self._rounds = 0
        self._cancelled = False
        self._under_way: Callable[[], Generator[Event] | None] = lambda: None
        self.context = self.runtime.context()
        render(self._head(), self.runtime.tokenizer)  # refuses now what would fail at the first message

    def send(self, text: str) -> Iterator[Event]:
        """Say something; the reply's events. Calls still unanswered leave the history."""
        if not text.strip():
            raise UsageError("the message is empty")
        self._end()
        return self._begin(Message("user", without_surrogates(text)), self._awaited)

    def send_tool_result(self, call: ToolCall, output: str) -> Iterator[Event]:
        """Answer a call of the last reply; the events of what the model says to it.

        Of several calls the last answers for all: until then there are no events, and what was passed over by then
        leaves the history. So answer them in the order in which they came.
        """
        if call in self._given_back:
            self._end()  # it is this very call's result that is being replied to
        if call not in self._awaited:
            raise UsageError(f"the call of '{call.name}' is not the one awaiting a result")
        at = self._awaited.index(call)
        passed_over, later = self._awaited[:at], self._awaited[at + 1 :]
        if later:
            self._drop(call.message for call in passed_over)
            self.messages.append(tool_result(call.message, without_surrogates(output)))
            self._awaited = later
            return iter(())
        return self._begin(tool_result(call.message, without_surrogates(output)), passed_over)

    def cancel(self) -> None:
        """Stop the reply under way at its next token or prefill chunk. Safe from a signal handler or another thread."""
        self._cancelled = True

    def clear(self) -> None:
        """Forget everything said."""
        self._end()
        self.messages, self._awaited = [], []

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

    def settled(self) -> list[Message]:
        """What was said, without the calls still unanswered: what the next message follows."""
        return self._without(call.message for call in self._awaited)

    def _next_prompt(self) -> list[int]:
        """What the next message's prompt begins with, and an empty message."""
        return render([*self._head(), *self.settled(), Message("user", "")], self.runtime.tokenizer)

    def _begin(self, message: Message, unanswered: list[ToolCall]) -> Iterator[Event]:
        """The events of a new reply; nobody will answer the calls ``unanswered``."""
        self._end()
        events = self._reply(message, unanswered)
        self._under_way = weakref.ref(events)  # weak, so that it still ends at once when it is dropped
        return events

    def _end(self) -> None:
        """Close a reply that was left in the middle, as its reader may do: it would write into the same history."""
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

    def _reply(self, message: Message, unanswered: list[ToolCall]) -> Generator[Event]:
        """Add ``message`` and generate until there is an answer, a call to make, or a reason to stop."""
        before, awaited, rounds = list(self.messages), self._awaited, self._rounds
        self._drop(call.message for call in unanswered)
        begun = len(self.messages)
        self.messages.append(message)
        self._awaited, self._given_back, self._cancelled = [], awaited, False
        self._rounds = 0 if message.role == "user" else rounds
        meter = _Meter()
        finished = False
        try:
            while True:
                reply = yield from self._generate(meter)
                if self._cancelled:
                    break
                if not (reply.calls or reply.unknown_calls):
                    finished = True
                    full = len(self.context.ids) + 1 >= self.runtime.config.max_position_embeddings
                    reason: Reason = "length" if reply.reason == "length" else "stop"
                    yield meter.done(reason, reply, context_full=reason == "length" and full)
                    return
                calls, errors = self._check(reply)
                self._awaited, finished = calls, bool(calls)
                yield from errors
                yield from calls
                if calls:
                    yield meter.done("tool_calls", reply)
                    return
                if self._rounds >= TOOL_ROUNDS:
                    finished = True
                    yield meter.done("tool_limit", reply)
                    return
        finally:
            if not finished:
                self._take_back(begun, before, awaited, rounds)
        yield meter.done("cancelled", reply)

    def _take_back(self, begun: int, before: list[Message], awaited: list[ToolCall], rounds: int) -> None:
        """After a cancelled or failed reply: keep what the user saw of it, else be as before it was asked for."""
        last = takewhile(lambda message: message.role == "assistant", reversed(self.messages))
        self._drop([message for message in last if message.recipient])  # calls that nobody will answer
        if not any(message.role == "assistant" and _visible(message) for message in self.messages[begun:]):
            self.messages, self._awaited, self._rounds = before, awaited, rounds

    def _drop(self, gone: Iterable[Message]) -> None:
        """Take messages out of the history."""
        self.messages = self._without(gone)

    def _without(self, gone: Iterable[Message]) -> list[Message]:
        ids = {id(message) for message in gone}
        start = self.runtime.tokenizer.special["<|start|>"]
        kept: list[Message] = []
        for number, message in enumerate(self.messages):
            if id(message) in ids:
                continue
            if message.ids and message.ids[0] != start and number and id(self.messages[number - 1]) in ids:
                message = replace(message, ids=None)  # the model wrote it on from the message that is gone
            kept.append(message)
        return kept

    def _generate(self, meter: "_Meter") -> Generator[Event, None, Reply]:
        """One prompt, one reply. Its messages enter the history when generation ends, however that may be."""
        room = self.runtime.config.max_position_embeddings
        prompt = render([*self._head(), *self.messages], self.runtime.tokenizer, limit=room)
        self.context = self.runtime.go_on(self.context, prompt)
        meter.start(prompt, len(self.context.ids))
        ids = generate(
            self.context,
            prompt,
            max_tokens=self.max_tokens or room,
            sampling=self.sampling or Sampling(),
            stop=self.runtime.stop_ids,
            cancelled=lambda: self._cancelled,
            progress=self.on_prefill,
        )
        reader = ReplyReader(self.runtime.tokenizer, len(prompt), functions=self._names)
        ended: Ended = "length"
        try:
            self._read_head(prompt)
            for id in ids:
                pieces = reader.feed(id)
                meter.tick()
                yield from map(_event, pieces)
                ended = "stop" if id in self.runtime.stop_ids else "length"
                if reader.over:
                    break
        except Cancelled:
            pass
        finally:
            ids.close()  # type: ignore[attr-defined]
            rest = reader.end(ended)
            reply = reader.finish(ended)
            self.messages += reply.messages
            meter.add(reply)
        yield from map(_event, rest)
        return reply

    def _read_head(self, prompt: list[int]) -> None:
        """Read what precedes the conversation, and leave it where another with the same beginning finds it."""
        head = len(render_messages(self._head(), self.runtime.tokenizer))
        if len(self.context.ids) < head:
            self.context.read(prompt[:head], cancelled=lambda: self._cancelled)
            self.context.mark()
            self.runtime.prefixes.keep(self.runtime.model_key, self.context)

    def _check(self, reply: Reply) -> tuple[list[ToolCall], list[ToolError]]:
        """The calls that can be made, and those that cannot: the model is told why, and both count."""
        calls, errors = [], []
        for call in (*reply.calls, *reply.unknown_calls):
            self._rounds += 1
            arguments, problem = self._arguments(call)
            if problem is None:
                calls.append(ToolCall(call.name, arguments, call.message))
            else:
                self.messages.append(tool_result(call.message, problem))
                errors.append(ToolError(call.name, problem))
        return calls, errors

    def _arguments(self, call: Call) -> tuple[dict[str, Any], str | None]:
        """A call's arguments, or what is wrong with the call in words for the model."""
        if not call.offered:
            known = ", ".join(sorted(self._names)) or "none"
            return {}, f"Error: there is no tool {call.message.recipient!r}; available: {known}"
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError) as error:
            return {}, f"Error: the arguments are not valid JSON: {error}"
        return (arguments, None) if isinstance(arguments, dict) else ({}, "Error: the arguments are not a JSON object")

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(declared.name for declared in self.functions if isinstance(declared, Function))


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
    repairs: Counter[str] = field(default_factory=Counter)

    def start(self, prompt: list[int], cached: int) -> None:
        self.prompt, self.cached = len(prompt), self.cached if self.prompt else cached

    def tick(self) -> None:
        """A token came."""
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def add(self, reply: Reply) -> None:
        self.tokens += reply.completion_tokens
        self.thought += reply.thought_tokens
        self.repairs.update(reply.repairs)

    def done(self, reason: Reason, reply: Reply, *, context_full: bool = False) -> Done:
        """The last event, after the last ``reply``."""
        between = self.last - (self.first or self.last)
        usage = Usage(
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            completion_tokens=self.tokens,
            thought_tokens=self.thought,
            seconds=time.perf_counter() - self.begun,
            time_to_first_token=None if self.first is None else self.first - self.begun,
            tokens_per_second=(self.tokens - 1) / between if between > 0 else 0.0,
        )
        cut_in_thought = reply.cut_in_thought and reason in ("length", "cancelled")
        return Done(reason, usage, cut_in_thought, context_full, reply.no_answer, dict(self.repairs))


def _event(piece: Piece) -> Thought | Text:
    return Thought(piece.text) if piece.section == "thought" else Text(piece.text)


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
