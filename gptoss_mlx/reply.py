"""Reading a reply's ids: its thought, its text, its calls, and how it ended.

Conversations and batches share this reader. Knows harmony, the functions on offer, the stop strings and when a reply
only repeats itself; knows nothing of the runtime, or of what to do about a call or a reply without an answer.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gptoss_mlx.harmony import Delta, Message, MessageEnd, MessageStart, ParserEvent, ReplyEnd, StreamParser, Tokenizer
from gptoss_mlx.repetition import Repetition
from gptoss_mlx.stop_strings import StopStrings

FinishReason = Literal["stop", "length", "tool_calls", "repetition"]
"""``repetition``: the reply only repeated itself, so it was ended."""
Ended = Literal["stop", "length"]
ReplySection = Literal["thought", "preamble", "answer"]
"""``preamble`` is what is said to the user before a call. The user sees it and the answer."""

GLUED = ("json", "code", "analysis", "commentary", "final")
"""Content types and channels that models write directly behind a function's name, without a blank or a marker."""

NO_ARGUMENTS = "{}"
"""Stands for the arguments of a call that the model wrote without any."""

BETWEEN = "\n\n"
"""Separates the texts of two messages of one reply."""


@dataclass(frozen=True)
class Piece:
    """More text of a section, never empty. ``between`` stands before it where another message of the reply was before.
    With it the pieces of thoughts concatenate to a reply's ``thought``, and the others to its ``content``."""

    section: ReplySection
    text: str
    between: str = ""

    @property
    def joined(self) -> str:
        """Return the text with what separates it from the message before."""
        return self.between + self.text


@dataclass(frozen=True)
class CallPiece:
    """More of the arguments of the ``number``th call of a function on offer, from 0 on. The first one has no text. They
    concatenate to the call's ``arguments``, but a call that the token limit cuts off is in no reply. ``custom`` is as
    for Call."""

    number: int
    name: str
    text: str
    custom: bool = False


@dataclass(frozen=True)
class Call:
    """A call of a tool. ``arguments`` is the text the model wrote, which may not be JSON, or ``{}`` if it wrote none.
    ``name`` is the declared name if ``offered``, and otherwise as written. ``message`` goes into the history. A
    ``custom`` tool takes text of any kind, none at all included."""

    name: str
    arguments: str
    offered: bool
    message: Message
    custom: bool = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole reply. ``content`` is all text meant for the user; ``preamble`` and ``text``, the answer, are its parts.

    ``parts`` are its texts and calls in the order in which they came, each as long as its section lasts.
    ``messages`` go into the history, calls included. Unfinished calls and messages that speak for others are left out.
    ``calls`` are of functions on offer, ``unknown_calls`` of others. ``stopped_by`` is the stop string that ended the
    answer. ``cut_in_thought``: generation stopped before any answer began, and a thought is no answer.
    ``cached_tokens`` of the prompt had been read before. ``repairs`` counts, by kind, what was guessed or left out.
    """

    parts: tuple[Piece | Call, ...]
    messages: tuple[Message, ...]
    content: str
    preamble: str
    text: str
    thought: str
    calls: tuple[Call, ...]
    unknown_calls: tuple[Call, ...]
    reason: FinishReason
    stopped_by: str | None
    cut_in_thought: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    thought_tokens: int
    repairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def cut_off(self) -> bool:
        """Return whether the reply was ended before the model ended it, by no wish of the caller's."""
        return self.reason in ("length", "repetition")

    @property
    def no_answer(self) -> bool:
        """Return whether the model ended the reply without any text for the user and without a call."""
        silent = not self.content.strip() and not self.calls and not self.unknown_calls
        return silent and self.reason == "stop" and self.stopped_by is None


class ReplyReader:
    """Reads one reply, id by id. Stop generating once it is ``over``: a stop string or a message for somebody else
    came, or the reply only repeats itself and is ``guarded``. ``functions`` are the declared names, ``custom`` those of
    them that take text. If ``functions`` is None, every name in the namespace ``functions`` counts as declared. A
    ``stop`` string ends the answer if it lies within one message."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_tokens: int = 0,
        stop: tuple[str, ...] = (),
        functions: Collection[str] | None = None,
        *,
        custom: Collection[str] = (),
        guarded: bool = True,
    ) -> None:
        self.over = False
        self.said = False  # whether the last id was text for the user
        self.tokens = self.thought_tokens = 0
        self._parser = StreamParser(tokenizer)
        self._prompt_tokens = prompt_tokens
        self._stop = StopStrings(stop)
        self._functions = functions
        self._custom = custom
        self._repetition = Repetition() if guarded else None
        self._sections: dict[ReplySection, str] = {"thought": "", "preamble": "", "answer": ""}
        self._content = ""
        self._between = ""  # precedes the next piece of this message
        self._messages: list[Message] = []
        self._left_out = False  # the last message was empty
        self._tokenizer = tokenizer
        self._calls: list[Call] = []
        self._called = 0  # calls of functions on offer that have begun
        self._calling: CallPiece | None = None  # the call that is being written, if it is of a function on offer
        self._arguments = ""  # of that call, so far
        self._parts: list[Piece | Call] = []
        self._thinking = self._saying = self._stopped = False
        self._end = ReplyEnd("limit", None)
        self._repairs: Counter[str] = Counter()

    def expect_text(self) -> None:
        """Read what follows as the text of an answer, as if its header had come. Call it before ``feed``, for text in
        which the model was not asked for harmony."""
        special = self._tokenizer.special
        for event in self._parser.feed(
            [special["<|channel|>"], *self._tokenizer.encode("final"), special["<|message|>"]]
        ):
            self._take(event)

    def feed(self, id: int) -> list[Piece | CallPiece]:
        """Read one more id and return the text that is now certain."""
        events = self._parser.feed(id)
        self.tokens += 1
        self.thought_tokens += self._thinking
        if self._repetition is not None and self._repetition.feed(id):
            self.over = True
        saying = self._saying
        pieces = [piece for event in events for piece in self._take(event)]
        self.said = saying and self._saying
        return pieces

    def end(self, ended: Ended) -> list[Piece | CallPiece]:
        """Return the rest of the text after the last id. A second call returns none. ``ended`` is how generation ended:
        by a stop id, or by its limit."""
        self._stopped = ended == "stop"
        return [piece for event in self._parser.finish() for piece in self._take(event)]

    def finish(self, ended: Ended, cached_tokens: int = 0) -> Reply:
        """Return the whole reply after the last id. ``ended`` is as for ``end``."""
        self.end(ended)
        calls = tuple(call for call in self._calls if call.offered)
        answer = self._sections["answer"]
        repeated = self._repetition is not None and self._repetition.found
        cut_off = repeated or (ended == "length" and self._end.stop == "limit" and not self.over)
        return Reply(
            parts=tuple(self._parts),
            messages=tuple(self._messages),
            content=self._content,
            preamble=self._sections["preamble"],
            text=answer,
            thought=self._sections["thought"],
            calls=calls,
            unknown_calls=tuple(call for call in self._calls if not call.offered),
            reason="tool_calls" if calls else "repetition" if repeated else "length" if cut_off else "stop",
            stopped_by=self._stop.found,
            cut_in_thought=cut_off
            and not calls
            and not answer
            and (self._end.cut_off == "thought" or not self._content),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=self.tokens,
            thought_tokens=self.thought_tokens,
            repairs=dict(self._repairs + self._parser.repairs),
        )

    def _take(self, event: ParserEvent) -> list[Piece | CallPiece]:
        match event:
            case MessageStart("other", _):
                self.over = True
                self._repairs["speaks for others"] += 1
            case MessageStart("call", recipient):
                self._thinking = self._saying = False
                return self._begin_call(recipient or "")
            case MessageStart(kind, _):
                self._thinking = kind == "thought"
                self._saying = kind in ("preamble", "answer")
                before = self._sections["thought"] if kind == "thought" else self._content
                self._between = BETWEEN if before else ""
            case Delta("thought" | "preamble" as section, text):
                return self._add(section, text)
            case Delta("answer", text):
                text = self._stop.before(text)
                self.over |= self._stop.found is not None
                return self._add("answer", text)
            case Delta("call", text):
                return self._add_arguments(text)
            case MessageEnd("call", message, complete):
                self._keep("call", message, complete)
                return self._end_call()
            case MessageEnd(kind, message, complete):
                self._thinking = self._saying = False
                self._keep(kind, message, complete)
                return self._add("answer", self._stop.rest())
            case ReplyEnd():
                self._end = event
        return []

    def _begin_call(self, recipient: str) -> list[Piece | CallPiece]:
        name = self._declared(recipient)
        if name is None:
            return []
        self._calling = CallPiece(self._called, name, "", name in self._custom)
        self._arguments = ""
        self._called += 1
        return [self._calling]

    def _add_arguments(self, text: str) -> list[Piece | CallPiece]:
        """Add text of a call. Hold back blanks until something else follows, because blanks alone are no arguments of
        a function."""
        if self._calling is None:
            return []
        if self._calling.custom:
            return [replace(self._calling, text=text)]
        before = self._arguments
        self._arguments += text
        if not self._arguments.strip():
            return []
        return [replace(self._calling, text=text if before.strip() else self._arguments)]

    def _end_call(self) -> list[Piece | CallPiece]:
        calling = self._calling
        self._calling = None
        silent = calling is not None and not calling.custom and not self._arguments.strip()
        return [replace(calling, text=NO_ARGUMENTS)] if calling is not None and silent else []

    def _add(self, section: ReplySection, text: str) -> list[Piece | CallPiece]:
        if not text:
            return []
        between = self._between
        self._between = ""
        own = between if self._sections[section] else ""
        self._sections[section] += own + text
        if section != "thought":
            own = between
            self._content += between + text
        piece = Piece(section, text, own)
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Piece) and last.section == section:
            self._parts[-1] = replace(last, text=last.text + piece.joined)
        else:
            self._parts.append(Piece(section, text))
        return [piece]

    def _keep(self, kind: str, message: Message, complete: bool) -> None:
        # A model folder may have stop ids that are no markers. A call that one of them ends is complete too.
        if kind == "call" and (complete or (self._stopped and not self.over)):
            call = self._call(message)
            self._calls.append(call)
            self._messages.append(call.message)
            if call.offered:
                self._parts.append(call)
        elif kind not in ("call", "other"):
            if self._left_out and message.ids and message.ids[0] != self._tokenizer.special["<|start|>"]:
                message = replace(message, ids=None)  # it began in the message that was left out
            self._left_out = not message.content
            if message.content:
                self._messages.append(message)

    def _call(self, message: Message) -> Call:
        written = message.recipient or ""
        arguments = str(message.content)
        name = self._declared(written)
        custom = name in self._custom
        if not arguments.strip() and not custom:
            self._repairs["a call without arguments"] += 1
            arguments = NO_ARGUMENTS
            message = replace(message, content=arguments)
        if name is None:
            self._repairs["a call of a tool that is not offered"] += 1
            return Call(written.removeprefix("functions."), arguments, False, message)
        if name != written.removeprefix("functions."):
            self._repairs["a word glued to a tool's name"] += 1
            message = replace(message, recipient=f"functions.{name}")
        return Call(name, arguments, True, message, custom)

    def _declared(self, recipient: str) -> str | None:
        """Return the name of the offered function that ``recipient`` means, or None."""
        name = recipient.removeprefix("functions.")
        if self._functions is None:
            return name if name != recipient else None
        return name if name in self._functions else next(filter(self._functions.__contains__, _unglued(name)), None)


def _unglued(name: str) -> Iterator[str]:
    """Yield ``name`` without the last word of GLUED, then without the last two, and so on."""
    while word := next((word for word in GLUED if name.endswith(word)), None):
        name = name.removesuffix(word)
        yield name
