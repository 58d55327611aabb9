"""What the model writes, id by id, as events: thoughts, answers and calls, whatever shape they come in.

Knows the markers and the state between them; ``header`` knows how to read what stands before a body. Never raises on
any ids. Text consists of ordinary tokens alone, so no marker gets into it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from gptoss_mlx.harmony.header import CHANNELS, HeaderPart, read_header
from gptoss_mlx.harmony.messages import Message
from gptoss_mlx.harmony.render import reply_start
from gptoss_mlx.harmony.tokenizer import TextDecoder, Tokenizer

MessageKind = Literal["thought", "preamble", "answer", "call", "other"]
"""``preamble`` is visible text on the commentary channel; ``other`` the model speaking for somebody else."""

MAX_HEADER = 256
"""Characters after which a header without ``<|message|>`` is taken for a body. Real ones have about fifty."""


@dataclass(frozen=True)
class MessageStart:
    kind: MessageKind
    recipient: str | None


@dataclass(frozen=True)
class Delta:
    """More text of the message that was started last. Never empty."""

    kind: MessageKind
    text: str


@dataclass(frozen=True)
class MessageEnd:
    """The whole message. A call's ``content`` is its argument text as written, which may not be JSON.

    ``message.ids`` are those the history keeps: as generated, behind the ``<|start|>assistant`` of the prompt if this
    is the first, and with what ended the reply turned into ``<|end|>`` (a call's into ``<|call|>``). ``complete`` is
    False when generation ended before the message did.
    """

    kind: MessageKind
    message: Message
    complete: bool


@dataclass(frozen=True)
class ReplyEnd:
    """``stop`` is the marker the model stopped with (``<|endoftext|>`` counts as return), or that it never did: the
    limit was reached, or the caller broke off. ``cut_off`` is then what was left open, if anything was.
    """

    stop: Literal["return", "call", "limit"]
    cut_off: MessageKind | Literal["header"] | None


MessageEnding = Literal["end", "call", "return", "next", "limit"]
Preceding = Literal["prompt", "start", "end", "body"]
"""What a header stands behind: the prompt's ``<|start|>assistant``, a ``<|start|>``, or neither."""

ParserEvent = MessageStart | Delta | MessageEnd | ReplyEnd


class StreamParser:
    """Reads one reply: what follows a prompt made by ``render``.

    After ``<|return|>``, ``<|call|>`` or ``<|endoftext|>`` the reply is over and further ids are ignored. After an
    ``<|end|>`` the next message follows; one of kind ``other`` means that the model runs on by itself, and that
    generation should rather be stopped.

    Text outside of any message is dropped where a message follows it, or an answer came before it; else it is the
    answer of a model that forgot the format. ``repairs`` counts what had to be guessed or left out, by kind.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = ("start", "message", "channel", "constrain", "end", "call", "return", "endoftext")
        ids = {name: tokenizer.special.get(f"<|{name}|>") for name in names}
        self._special = {name: id for name, id in ids.items() if id is not None}
        self._name_of = {id: name for name, id in self._special.items()}
        self._tokenizer = tokenizer
        self._decoder = TextDecoder(tokenizer)
        self._events: list[ParserEvent] = []
        self._stop: Literal["return", "call", "limit"] | None = None
        self._finished = False
        self.repairs: Counter[str] = Counter()
        self._answered = False
        self._kind: MessageKind = "answer"  # this and the text belong to the message, once its header is read
        self._text: list[str] = []
        self._ids = reply_start(tokenizer)  # of this message, behind those of headers that came to nothing
        self._expect_header("prompt")

    def feed(self, ids: int | Iterable[int]) -> list[ParserEvent]:
        """The events of one id or several. Cutting the same ids up differently changes nothing in the sequence."""
        for id in [ids] if isinstance(ids, int) else ids:
            if self._stop is None:
                self._step(id)
        return self._take_events()

    def finish(self) -> list[ParserEvent]:
        """No more ids will come: the last events, of which the very last is ReplyEnd. A second call gives none."""
        if self._finished:
            return []
        self._finished = True
        cut_off: MessageKind | Literal["header"] | None = None
        if self._stop is None:
            self._stop = "limit"
            self._add_text(self._decoder.finish())
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
        events = self._events
        self._events = []
        return events

    def _step(self, id: int) -> None:
        name = self._name_of.get(id)
        if name is not None:
            self._add_text(self._decoder.finish())
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
                # The next message, without <|end|><|start|>assistant between the two.
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
                self._add_text(self._decoder.feed(id))

    def _expect_header(self, preceding: Preceding, *, channel: str | None = None) -> None:
        """``channel`` is that of the message it follows without an end."""
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
            # Whether text behind an <|end|> is anything at all depends on what comes after it.
            if self._header_length > self._header_limit and (self._preceding != "end" or len(self._parts) > 1):
                self._header_limit *= 2
                self._open()
        elif text:
            self._text.append(text)
            self._events.append(Delta(self._kind, text))

    def _open(self, *, whole: bool = False, bare_call: bool = False) -> None:
        """From the header to the body. One that is not ``whole``, that is without ``<|message|>``, must have text
        left over that is the body, or be a ``bare_call``: a call with no arguments at all.
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
        """For what stands without any marker and without a message following: the answer, unless there was one."""
        if not (self._preceding == "end" and self._answered):
            self._open()

    def _open_unfinished(self, how: MessageEnding) -> None:
        """The header ends without ``<|message|>``: was there a body in it all the same?"""
        alone = len(self._parts) == 1 and self._preceding != "start"
        if how == "next":
            # Given up for another header. A tool named in it is named again there; only a channel announces text.
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
        """The message is over: by a marker, by the beginning of the next one, or because nothing more comes."""
        if self._message is None and how != "limit":
            self._open_unfinished(how)
        match how:
            case "end":
                closing = [self._special["end"]]
            case "next":
                closing = []
            case _:
                closing = [self._special["call" if self._kind == "call" else "end"]]
        self._ids += closing
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
