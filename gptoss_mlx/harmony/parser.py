"""Parse the token ids a model generates into events: thoughts, answers and calls, well formed or not.

Knows the markers and the state between them. Does not know how a header is read: that is ``header``. No sequence of ids
makes the parser raise. Text is decoded from ordinary tokens alone, so it never contains a marker.
"""

import codecs
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from gptoss_mlx.harmony.header import CHANNELS, HeaderPart, read_header
from gptoss_mlx.harmony.messages import Message
from gptoss_mlx.harmony.render import reply_start
from gptoss_mlx.harmony.tokenizer import Tokenizer

MessageKind = Literal["thought", "preamble", "answer", "call", "other"]
"""``preamble`` is visible text on the commentary channel. ``other`` is a message the model wrote in another role."""

MAX_HEADER = 256
"""Characters. A longer header without ``<|message|>`` is read as a body. Real headers have about 50."""


@dataclass(frozen=True)
class MessageStart:
    """A message has begun. A call's ``recipient`` is what it calls, such as ``functions.f``, as it was written."""

    kind: MessageKind
    recipient: str | None


@dataclass(frozen=True)
class Delta:
    """More text of the message that ``MessageStart`` announced last. ``text`` is never empty."""

    kind: MessageKind
    text: str


@dataclass(frozen=True)
class MessageEnd:
    """The whole message. A call's ``content`` is its argument text as the model wrote it, which may not be JSON.

    ``message.ids`` are the ids that a history keeps. They are the generated ids with two changes: the first message
    also gets the prompt's ``<|start|>assistant``, and the marker that ended the reply becomes ``<|end|>`` (``<|call|>``
    after a call). ``complete`` is False when generation ended before the message did.
    """

    kind: MessageKind
    message: Message
    complete: bool


@dataclass(frozen=True)
class ReplyEnd:
    """The end of a reply. Every reply has one.

    ``stop`` is the marker the model stopped with; ``<|endoftext|>`` counts as "return". It is "limit" when the model
    did not stop: the token limit was reached, or the caller ended generation. ``cut_off`` is then the message or header
    that was still open, or None.
    """

    stop: Literal["return", "call", "limit"]
    cut_off: MessageKind | Literal["header"] | None


MessageEnding = Literal["end", "call", "return", "next", "limit"]
Preceding = Literal["prompt", "start", "end", "body"]
"""What precedes a header: the prompt's ``<|start|>assistant``, a ``<|start|>``, an ``<|end|>``, or an unended body."""

ParserEvent = MessageStart | Delta | MessageEnd | ReplyEnd


class StreamParser:
    """A parser for one reply: the ids generated after a prompt that ``render`` made.

    After ``<|return|>``, ``<|call|>`` or ``<|endoftext|>`` the reply is over, and further ids are ignored. After
    ``<|end|>`` another message follows. A message of kind ``other`` means that the model has begun to write in another
    role; callers should then stop generation.

    Text outside a message is dropped if a message follows it or an answer came before it. Otherwise it is read as the
    answer, because models sometimes omit the format. ``repairs`` counts what was guessed or dropped, by description.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = ("start", "message", "channel", "constrain", "end", "call", "return", "endoftext")
        ids = {name: tokenizer.special.get(f"<|{name}|>") for name in names}
        self._special = {name: id for name, id in ids.items() if id is not None}
        self._name_of = {id: name for name, id in self._special.items()}
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")  # a character may lie in several tokens
        self._events: list[ParserEvent] = []
        self._stop: Literal["return", "call", "limit"] | None = None
        self._finished = False
        self.repairs: Counter[str] = Counter()
        self._answered = False
        self._kind: MessageKind = "answer"  # valid, like the text, while a message is open
        self._text: list[str] = []
        self._ids = reply_start(tokenizer)  # of this message, after those of abandoned headers before it
        self._expect_header("prompt")

    def feed(self, ids: int | Iterable[int]) -> list[ParserEvent]:
        """Read one id or several and return the new events. How ids are split over calls does not change the events."""
        for id in [ids] if isinstance(ids, int) else ids:
            if self._stop is None:
                self._step(id)
        return self._take_events()

    def finish(self) -> list[ParserEvent]:
        """End the reply, and return the remaining events, of which the last is ReplyEnd. A second call returns none."""
        if self._finished:
            return []
        self._finished = True
        cut_off: MessageKind | Literal["header"] | None = None
        if self._stop is None:
            self._stop = "limit"
            self._add_text(self._utf8.decode(b"", final=True))
            in_header = self._preceding == "start" or len(self._parts) > 1
            if self._message is None and not in_header:
                self._open_text_alone()
            if self._message is not None:
                cut_off = self._kind
            elif in_header:
                cut_off = "header"
            self._end("limit")
        self._events.append(ReplyEnd(self._stop, cut_off))
        return self._take_events()

    def _take_events(self) -> list[ParserEvent]:
        events, self._events = self._events, []
        return events

    def _step(self, id: int) -> None:
        name = self._name_of.get(id)
        if name is not None:
            self._add_text(self._utf8.decode(b"", final=True))
        in_header = self._message is None
        match name:
            case "start":
                self._end("next")
                self._expect_header("start")
                self._ids.append(id)
            case "message" if in_header:
                self._ids.append(id)
                self._open(whole=True)
            case "channel" | "constrain" if in_header:
                self._ids.append(id)
                self._parts.append((name, []))
            case "channel" if self._message and self._message.role == "assistant":
                # The next message begins although <|end|><|start|>assistant is missing.
                channel = self._message.channel
                self._end("next")
                self._expect_header("body", channel=channel)
                self._ids.append(id)
                self._parts.append(("channel", []))
            case "end":
                self._end("end")
                self._expect_header("end")
            case "call" | "return" | "endoftext":
                self._stop = "call" if name == "call" else "return"
                self._end(self._stop)
            case _:
                if name is not None:
                    self.repairs["a marker inside a body"] += 1
                self._ids.append(id)
                self._add_text(self._utf8.decode(self._tokenizer.token_bytes(id)))

    def _expect_header(self, preceding: Preceding, *, channel: str | None = None) -> None:
        """Begin a header. ``channel`` is the default, taken from a message that had no ``<|end|>``."""
        self._preceding = preceding
        self._channel = channel
        self._parts: list[tuple[str, list[str]]] = [("", [])]
        self._header_length = 0
        self._header_limit = MAX_HEADER
        self._message: Message | None = None

    def _add_text(self, text: str) -> None:
        if self._message is None:
            self._parts[-1][1].append(text)
            self._header_length += len(text)
            # Text after an <|end|> stays undecided, because a following message would make it void.
            if self._header_length > self._header_limit and (self._preceding != "end" or len(self._parts) > 1):
                self._header_limit *= 2
                self._open()
        elif text:
            self._text.append(text)
            self._events.append(Delta(self._kind, text))

    def _open(self, *, whole: bool = False, bare_call: bool = False) -> None:
        """Read the header and open its message. ``whole`` says that ``<|message|>`` ended the header.

        A header that is not whole opens a message only if text is left over for the body, or if it names a tool and
        ``bare_call`` allows a call without arguments. Otherwise nothing changes.
        """
        message, rest = self._header(whole=whole)
        kind = _kind(message)
        if not (whole or rest or (bare_call and kind == "call")):
            return
        if not whole:
            self.repairs["a header without <|message|>"] += 1
        elif kind == "answer" and message.channel not in CHANNELS:
            self.repairs["a message without a channel" if message.channel is None else "an unknown channel"] += 1
        if self._preceding in ("body", "end"):
            self.repairs["a message without <|start|>"] += 1
        self._message = message
        self._kind = kind
        self._text = []
        self._events.append(MessageStart(kind, message.recipient))
        self._add_text("" if whole else rest)

    def _open_text_alone(self) -> None:
        """Read text that has no marker and no message after it as the answer, unless there was an answer before."""
        if not (self._preceding == "end" and self._answered):
            self._open()

    def _open_unfinished(self, how: MessageEnding) -> None:
        """End a header that had no ``<|message|>``: open a message if the header seems to contain a body."""
        alone = len(self._parts) == 1 and self._preceding != "start"
        if how == "next":
            # The model began another header. It repeats a tool there, so only a channel's name announces text here.
            message, _ = self._header()
            if message.channel in CHANNELS and message.recipient is None and not alone:
                self._open()
        elif alone and _kind(self._header()[0]) != "call":
            self._open_text_alone()
        else:
            self._open(bare_call=True)
        if self._message is None and any("".join(pieces).strip() for _, pieces in self._parts):
            self.repairs["text outside a message" if alone else "a header without a message"] += 1

    def _header(self, *, whole: bool = False) -> tuple[Message, str]:
        parts = [HeaderPart(marker, "".join(pieces)) for marker, pieces in self._parts]
        return read_header(parts, begun=self._preceding == "start", whole=whole, channel=self._channel)

    def _end(self, how: MessageEnding) -> None:
        """End the message or header: at a marker, where the next message begins, or at the end of generation."""
        if self._message is None and how != "limit":
            self._open_unfinished(how)
        if how != "next":
            self._ids.append(self._special["call" if self._kind == "call" and how != "end" else "end"])
        if self._message is not None:
            message = replace(self._message, content="".join(self._text), ids=tuple(self._ids))
            self._events.append(MessageEnd(self._kind, message, complete=how != "limit"))
            self._answered |= self._kind == "answer" and bool(self._text)
            if self._kind == "call" and how in ("end", "next", "return"):
                self.repairs["a call without <|call|>"] += 1
            self._message = None
            self._ids = []


def _kind(message: Message) -> MessageKind:
    if message.role != "assistant":
        return "other"
    if message.recipient:
        return "call"
    if message.channel == "analysis":
        return "thought"
    return "preamble" if message.channel == "commentary" else "answer"
