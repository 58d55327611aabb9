"""A reply's ids, read into an answer: text, thought, calls, why it ended, and counts."""

from dataclasses import dataclass
from typing import Literal

from gptoss_mlx.harmony import Delta, Event, MessageEnd, MessageStart, ReplyEnd, StreamParser, Tokenizer

Reason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Call:
    """A function the model calls. ``arguments`` is the text it wrote, which may not be JSON."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """``preamble`` is what is said to the user before a call; ``cached_tokens`` of the prompt had been read before."""

    text: str
    preamble: str
    thought: str
    calls: tuple[Call, ...]
    reason: Reason
    prompt_tokens: int
    completion_tokens: int
    thought_tokens: int
    cached_tokens: int = 0

    @property
    def content(self) -> str:
        """All that is meant for the user."""
        return "\n\n".join(text for text in (self.preamble, self.text) if text)

    @property
    def cut_in_thought(self) -> bool:
        """It stopped before any answer began, and a thought is no answer."""
        return self.reason == "length" and not self.content and not self.calls


class ReplyReader:
    """Reads one reply. Once ``over``, no more ids are wanted: a stop string came, or the model speaks for others."""

    def __init__(self, tokenizer: Tokenizer, prompt_tokens: int, stop: tuple[str, ...] = ()) -> None:
        self.over = False
        self._parser = StreamParser(tokenizer)
        self._prompt_tokens = prompt_tokens
        self._stop = stop
        self._texts: dict[str, list[str]] = {"thought": [], "preamble": [], "answer": []}
        self._answer = ""
        self._calls: list[Call] = []
        self._thinking = False
        self._stopped: str | None = None
        self._tokens = self._thought_tokens = 0

    def feed(self, id: int) -> list[Event]:
        """One more id; the parser's events, for whoever streams."""
        events = self._parser.feed(id)
        self._tokens += 1
        self._thought_tokens += self._thinking
        for event in events:
            self._take(event)
        return events

    def finish(self, ended: Literal["stop", "length"], cached_tokens: int = 0) -> Answer:
        """The answer. ``ended`` is how generation ended: by an id to stop at, or by its limit."""
        for event in self._parser.finish():
            self._take(event)
        reason: Reason = "tool_calls" if self._calls else "length" if ended == "length" and not self.over else "stop"
        return Answer(
            text=self._answer,
            preamble="".join(self._texts["preamble"]),
            thought="".join(self._texts["thought"]),
            calls=tuple(self._calls),
            reason=reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            thought_tokens=self._thought_tokens,
            cached_tokens=cached_tokens,
        )

    def _take(self, event: Event) -> None:
        match event:
            case MessageStart(kind, _):
                self._thinking = kind == "thought"
                self.over |= kind == "other"
            case Delta("answer", text):
                self._add_answer(text)
            case Delta("thought" | "preamble" as kind, text):
                self._texts[kind].append(text)
            case MessageEnd("call", message, True):
                name = (message.recipient or "").removeprefix("functions.")
                self._calls.append(Call(name, str(message.content)))
            case MessageEnd():
                self._thinking = False
            case ReplyEnd():
                pass

    def _add_answer(self, text: str) -> None:
        if self._stopped is not None:
            return
        seen, self._answer = len(self._answer), self._answer + text
        ends = [(self._answer.find(stop, max(0, seen - len(stop) + 1)), stop) for stop in self._stop]
        if found := [(at, stop) for at, stop in ends if at >= 0]:
            at, self._stopped = min(found)
            self._answer, self.over = self._answer[:at], True
