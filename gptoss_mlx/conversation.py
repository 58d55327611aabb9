"""One chat: its history, what the model may call, what its answers are held to, and replies as they arrive.

Knows harmony and the runtime; knows nothing of terminals, HTTP or how a tool does its work. Functions that are only
declared are called by who reads the events, tools by the conversation. The next prompt leaves out the thought of a
finished turn, and the context rewinds to before it. So a turn reads only what is new.
"""

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date as Date
from typing import TYPE_CHECKING, Any, get_args

from gptoss_mlx import forms
from gptoss_mlx.arguments import whole
from gptoss_mlx.errors import UsageError, quoted
from gptoss_mlx.events import Done, DoneReason, ReplyEvent, Text, Thought, ToolCall, ToolError, ToolResult
from gptoss_mlx.harmony import Developer, Function, Message, Namespace, System, render, render_messages, tool_result
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.reply import CallPiece, Ended, Piece, Reply, ReplyReader
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.text_input import without_surrogates
from gptoss_mlx.tools.declarations import read_arguments, read_declaration
from gptoss_mlx.tools.tool import NOT_ALLOWED, Outcome, Tool, perform
from gptoss_mlx.turns import Turns
from gptoss_mlx.usage import Meter

if TYPE_CHECKING:
    from gptoss_mlx.grammars import Grammar
    from gptoss_mlx.link.client import AnyRuntime

TOOL_ROUNDS = 8
"""Calls after one user message. From this many on, a call that cannot be made ends the turn. Calls that can be made are
always handed out, because the caller who answers them decides when to stop."""

TOOL_REPLIES = 25
"""Replies with calls of tools to one user message. One more ends the turn."""


class Conversation:
    """A conversation with a loaded model.

    Iterate over what ``send`` returns to its end, or close it to cancel the reply. The next ``send`` closes it too. A
    cancelled reply keeps the answer text that arrived, as if the model had ended there. If none arrived, the message it
    answered is forgotten too.

    Attributes of the same names as the arguments may be set between replies. ``messages`` is the history, without the
    system and developer messages.
    """

    def __init__(
        self,
        runtime: "AnyRuntime",
        *,
        reasoning: Effort = "medium",
        instructions: str | None = None,
        functions: Sequence[Function | Mapping[str, Any]] = (),
        tools: Sequence[Tool | Callable[..., Any]] = (),
        confirm: Callable[[Tool, ToolCall], bool] | None = None,
        date: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
        schema: Any = None,
        think_tokens: int | None = None,
        repeat_guard: bool = True,
    ) -> None:
        """Begin a conversation that has read nothing.

        ``reasoning`` is how long the model thinks, ``instructions`` what others call the system prompt. ``sampling`` is
        what ``runtime.sampling`` makes, ``max_tokens`` the most tokens of a reply, thought included; None is up to the
        end of the context.

        ``functions`` are declared in harmony's form or OpenAI's JSON. Where there are any, calls are well formed and of
        these alone, with arguments that follow its schema: all of it if it is ``strict``, else what can be enforced.
        ``tools`` are functions with types and a docstring (``tools.functions``), or what other modules of ``tools``
        make. The conversation calls them, in another thread and for a limited time, if ``confirm`` agrees, and goes on
        with what they return or raise.

        ``schema`` is what every answer is held to: a JSON Schema, which the model also reads, a Pydantic model, or a
        Grammar; ``answer_grammar`` has its warnings. A reply that ends for another reason than ``stop`` may not satisfy
        it. ``think_tokens`` is the most tokens of a thought. ``date`` (ISO; None for today's, "" for none) stays fixed,
        because a change at midnight would make everything be read again. ``on_prefill`` is called with (tokens read,
        tokens of the prompt). ``repeat_guard`` ends a reply that only repeats itself. Raises UsageError for values out
        of range, GrammarError for what cannot be enforced, HarmonyError for declarations that cannot be rendered, and
        ModelFolderError for a model without a tokenizer.
        """
        if max_tokens is not None:
            max_tokens = whole("max_tokens", max_tokens, 1, "a whole number, 1 or more")
        if not isinstance(sampling, Sampling | None):
            raise UsageError(f"sampling is {quoted(sampling, 40)}; give what runtime.sampling() makes")
        self.runtime = runtime
        self.reasoning = reasoning
        self.instructions = instructions
        self.functions = tuple(map(read_declaration, functions))
        self.tools = tuple(one if isinstance(one, Tool) else _function_tool(one) for one in tools)
        self.confirm = confirm
        self.date = Date.today().isoformat() if date is None else date
        self.sampling = sampling or runtime.sampling()
        self.max_tokens = max_tokens
        self.on_prefill = on_prefill
        self.schema = schema
        self.think_tokens = None if think_tokens is None else whole("think_tokens", think_tokens, 0, "0 or more")
        self.repeat_guard = repeat_guard
        self._turns = Turns(runtime.tokenizer)
        self.context: Any = runtime.context()  # the runtime's own kind
        self._cancelled = False
        self._turn = self._turns.state()  # of the last reply
        self._under_way: Callable[[], Generator[ReplyEvent] | None] = lambda: None
        render(self._head(), runtime.tokenizer)  # raises now what the first message would raise
        if self._reply_grammar() is not None:
            runtime.prepare_constraints()

    def send(self, text: str) -> Iterator[ReplyEvent]:
        """Send a user message and return the events of the reply, of which Done is the last. Calls of the reply before
        that have no result yet are removed from the history. Raises UsageError for an empty message. The iterator
        raises ContextLengthError where there is no room for a reply, EngineError, ModelFolderError where experts cannot
        be read, and what an answer that is held to a form raises: GrammarError, ConstraintError."""
        if not text.strip():
            raise UsageError("the message is empty")
        self._end_reply()
        return self._begin_reply(Message("user", without_surrogates(text)), self._turns.pending)

    def send_tool_result(self, call: ToolCall, output: str) -> Iterator[ReplyEvent]:
        """Answer a pending call of the last reply and return the events of what the model says to it. There are no
        events until the last pending call is answered. Answer calls in the order in which they came, because the calls
        before an answered one are removed from the history. Raises UsageError for any other call."""
        if call in self._turn.pending:
            self._end_reply()  # the reply under way may be the one to this call, which is then pending again
        if call not in self._turns.pending:
            raise UsageError(f"the call of '{call.name}' is not the one awaiting a result")
        result = tool_result(call.message, without_surrogates(output))
        at = self._turns.pending.index(call)
        skipped = self._turns.pending[:at]
        later = self._turns.pending[at + 1 :]
        if not later:
            return self._begin_reply(result, skipped)
        self.messages = [*self._turns.without([one.message for one in skipped]), result]
        self._turns.pending = later
        return iter(())

    def cancel(self) -> None:
        """Stop the reply under way at its next token or prefill chunk. Safe from a signal handler or another thread."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Return whether the last reply was cancelled, or is being cancelled."""
        return self._cancelled

    def clear(self) -> None:
        """Forget all messages."""
        self._end_reply()
        self.messages = []
        self._turns.pending = []

    def to_read(self) -> tuple[int, int]:
        """Return how many tokens so far the next message has to read, and how many there are.

        Normally it reads the last answer. After a change of effort, instructions, functions or date, which stand at the
        beginning, it reads all, unless that beginning was read before.
        """
        prompt = self.next_prompt()
        return len(prompt) - self.runtime.reusable(self.context, prompt), len(prompt)

    @property
    def messages(self) -> list[Message]:
        """The history, without the system and developer messages."""
        return self._turns.messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        self._turns.messages = messages

    def settled_messages(self) -> list[Message]:
        """Return the history without the pending calls, which is what the next user message follows."""
        return self._turns.settled()

    def next_prompt(self) -> list[int]:
        """Return the prompt for an empty user message."""
        return render([*self._head(), *self.settled_messages(), Message("user", "")], self.runtime.tokenizer)

    def _head(self) -> list[Message]:
        """Return the system and developer messages for the present settings. Raises UsageError for another effort."""
        if self.reasoning not in get_args(Effort):
            raise UsageError(f"reasoning is '{self.reasoning}'; use low, medium or high")
        builtins = tuple(tool.declared for tool in self.tools if isinstance(tool.declared, Namespace))
        head = [Message("system", System(self.reasoning, self.date, tools=builtins))]
        shown = forms.shown_schema(self.schema)
        functions = self._functions()
        if self.instructions or functions or shown:
            head.append(Message("developer", Developer(self.instructions or None, functions, shown)))
        return head

    @property
    def answer_grammar(self) -> "Grammar | None":
        """Return what every answer is held to. Raises GrammarError and UsageError."""
        return None if self.schema is None else forms.answer_grammar(self.schema)

    def _reply_grammar(self) -> "Grammar | None":
        """Return what a whole reply is held to, None where it is free."""
        if self.schema is None and not self.functions and not self.tools and self.think_tokens is None:
            return None
        return forms.reply_grammar(self.answer_grammar, self._functions(), self._builtins(), self.think_tokens)

    def _begin_reply(self, message: Message, unanswered: list[ToolCall]) -> Iterator[ReplyEvent]:
        """Return the events of the reply to ``message``. The calls ``unanswered`` will get no result."""
        self._end_reply()
        events = self._answered(message, unanswered)
        self._under_way = weakref.ref(events)  # weak, so that dropping the iterator still ends the reply at once
        return events

    def _end_reply(self) -> None:
        """Close a reply that its reader left unfinished, because it would write into the same history."""
        if events := self._under_way():
            events.close()

    def _answered(self, message: Message, unanswered: list[ToolCall]) -> Generator[ReplyEvent]:
        """Reply, and go on after calls of tools with what they return. If the user cancels that, what the user saw of
        it is kept, and the whole turn forgotten if that is nothing."""
        meter = Meter()
        first = message
        before = self._turns.state(finished=True)
        try:
            for _ in range(TOOL_REPLIES):
                called = False
                with closing(self._reply(message, unanswered, meter)) as events:
                    for event in events:
                        if isinstance(event, Done) and event.reason == "tool_calls" and self._runnable():
                            called = True
                        else:
                            before.finished |= isinstance(event, Done) and event.reason != "cancelled"
                            yield event
                if not called:
                    return
                before.finished = False
                with meter.waiting():
                    results = yield from self._results()
                if results is None:
                    yield Done("cancelled", meter.usage(), repairs=meter.repairs())
                    return
                *others, message = results
                self.messages += others
                self._turns.pending = unanswered = []
            self.messages.append(message)
            before.finished = True
            yield Done("tool_limit", meter.usage(), repairs=meter.repairs())
        finally:
            if not before.finished:
                self._turns.forget_since(before, first)

    def _runnable(self) -> bool:
        """Return whether all pending calls are of tools. Otherwise the caller answers them all, in their order."""
        names = {tool.name for tool in self.tools}
        return all(call.name in names for call in self._turns.pending)

    def _results(self) -> Generator[ReplyEvent, None, list[Message] | None]:
        """Run the tools that were called, in order. Return what the model is told, or None if the user cancels."""
        results = []
        tools = {tool.name: tool for tool in self.tools}
        for call in self._turns.pending:
            tool = tools[call.name]
            outcome: Outcome | None = NOT_ALLOWED
            if tool.trusted or self.confirm is None or self.confirm(tool, call):
                outcome = None if self._cancelled else perform(tool, call.arguments, lambda: self._cancelled)
            if outcome is None or self._cancelled:
                return None
            yield ToolResult(call.name, outcome.text, outcome.failed)
            results.append(tool_result(call.message, without_surrogates(outcome.text)))
        return results

    def _reply(self, message: Message, unanswered: list[ToolCall], meter: Meter) -> Generator[ReplyEvent]:
        """Generate until there is an answer, a call to make, or a reason to stop."""
        reason: DoneReason = "cancelled"
        self._cancelled = False
        with self._turns.reply_to(message, unanswered) as turn:
            self._turn = turn
            while True:
                reply = yield from self._generate(meter)
                if self._cancelled:
                    break
                if not (reply.calls or reply.unknown_calls):
                    turn.finished = True
                    reason = reply.reason if reply.cut_off else "stop"
                    break
                calls, errors = self._check_calls(reply)
                self._turns.pending = calls
                turn.finished = bool(calls)
                yield from errors
                yield from calls
                if calls:
                    reason = "tool_calls"
                    break
                if self._turns.calls >= TOOL_ROUNDS:
                    turn.finished = True
                    reason = "tool_limit"
                    break
        cut_in_thought = reply.cut_in_thought and reason in ("length", "repetition", "cancelled")
        context_full = reason == "length" and len(self.context.ids) + 1 >= self.runtime.config.max_position_embeddings
        invalid = forms.fault(self.schema, reply.text) if reason == "stop" else None
        yield Done(reason, meter.usage(), cut_in_thought, context_full, reply.no_answer, invalid, meter.repairs())
        self.runtime.save(self.context)  # when the reader has the whole reply

    def _generate(self, meter: Meter) -> Generator[ReplyEvent, None, Reply]:
        """Generate one reply to the history. Add its messages to the history however generation ends."""
        room = self.runtime.config.max_position_embeddings
        prompt = render([*self._head(), *self.messages], self.runtime.tokenizer, limit=room)
        self.context = self.runtime.go_on(self.context, prompt)
        head = len(render_messages(self._head(), self.runtime.tokenizer))
        reader = ReplyReader(
            *(self.runtime.tokenizer, len(prompt)),
            functions=self._names(),
            custom=self._builtins(),
            guarded=self.repeat_guard,
        )
        grammar = self._reply_grammar()
        constraint: Any = None if grammar is None else self.runtime.constraint(grammar)
        ended: Ended = "length"
        try:
            ids = self.runtime.continuation(
                self.context,
                prompt,
                head=head,
                max_tokens=self.max_tokens or room,
                sampling=self.sampling,
                constraint=constraint,
                cancelled=lambda: self._cancelled,
                progress=self.on_prefill,
            )
            with closing(ids):
                for id in ids:
                    pieces = reader.feed(id)
                    meter.count_token()
                    yield from _events(pieces)
                    ended = "stop" if id in self.runtime.stop_ids else "length"
                    if reader.over:
                        break
        finally:
            rest = reader.end(ended)
            reply = reader.finish(ended, self.context.resumed)
            self.messages += reply.messages
            meter.replies.append(reply)
        yield from _events(rest)
        return reply

    def _check_calls(self, reply: Reply) -> tuple[list[ToolCall], list[ToolError]]:
        """Return the reply's calls that can be made, and errors for the others. Add the errors to the history."""
        calls = []
        errors = []
        for call in (*reply.calls, *reply.unknown_calls):
            self._turns.calls += 1
            try:
                calls.append(ToolCall(call.name, read_arguments(call, self._names()), call.message))
            except ValueError as error:
                self.messages.append(tool_result(call.message, str(error)))
                errors.append(ToolError(call.name, str(error)))
        return calls, errors

    def _functions(self) -> tuple[Function, ...]:
        """Return all functions that the model may call. Raises UsageError for a name that comes twice."""
        own = [tool.declared for tool in self.tools if isinstance(tool.declared, Function)]
        functions = (*self.functions, *own)
        names = [one.name for one in functions]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"there are two functions '{double}' that the model may call; rename one")
        return functions

    def _builtins(self) -> set[str]:
        """Return the names of the tools that are called with text."""
        return {tool.name for tool in self.tools if isinstance(tool.declared, Namespace)}

    def _names(self) -> set[str]:
        return {function.name for function in self._functions()} | self._builtins()


def _function_tool(function: Callable[..., Any]) -> Tool:
    from gptoss_mlx.tools.functions import function_tool

    return function_tool(function)


def _events(pieces: Iterable[Piece | CallPiece]) -> Iterator[Thought | Text]:
    for piece in pieces:
        if isinstance(piece, Piece):
            yield Thought(piece.joined) if piece.section == "thought" else Text(piece.joined)
