"""How a reply looks while it arrives: the thought dim under its own rule, the answer as live Markdown.

What is finished is printed for good and scrolls away; only the unfinished end is redrawn. Where the output is no
terminal the text is written as it comes, without control codes. Knows events, no model and no input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from gptoss_mlx.cli.terminal import printable
from gptoss_mlx.conversation import Done, ReplyEvent, Thought, ToolCall, ToolError
from gptoss_mlx.conversation import Text as Answer
from gptoss_mlx.errors import shown

Split = Callable[[str], int]


class ReplyView:
    """Shows one reply's events. Use as a context manager, so that the terminal is left as it was found."""

    def __init__(self, console: Console, *, thinking: bool = True) -> None:
        self._console = console
        self._thinking = thinking
        self._section: str | None = None
        self._stream: _Stream | None = None
        self._reading: Live | None = None

    def __enter__(self) -> "ReplyView":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def reading(self, read: int, total: int) -> None:
        """A line at a terminal while a prompt of more than one chunk is read; gone once it has been."""
        if read == total:
            self._close()
        elif self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._reading is None:
                self._reading = Live(console=self._console, auto_refresh=False, transient=True)
                self._reading.start()
            self._reading.update(Text(f"read {read:,} of {total:,} tokens", style="dim"), refresh=True)

    def show(self, event: ReplyEvent) -> None:
        match event:
            case Thought(text):
                if self._thinking:
                    self._open("thinking", _lines_end, lambda tail: Text(tail, style="dim"))
                    self._write(text)
            case Answer(text):
                self._open("answer", _blocks_end, Markdown)
                self._write(text)
            case ToolCall():
                self._note(f"→ {event.name}({event.message.content})")
            case ToolError():
                self._note(f"→ {event.name}: {event.problem}")
            case Done():
                self._close()
                self._console.print(Text(summary(event), style="dim"))

    def _open(self, section: str, split: Split, draw: Callable[[str], RenderableType]) -> None:
        if self._section == section:
            return
        self._close()
        self._section = section
        if section == "thinking" or self._thinking:
            self._console.rule(section, style="dim", align="left", characters="─")
        self._stream = _Stream(self._console, split, draw)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)

    def _note(self, line: str) -> None:
        self._close()
        self._console.print(Text(shown(line), style="cyan"))

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._reading is not None:
            self._reading.stop()
        self._section = self._stream = self._reading = None


def summary(done: Done) -> str:
    """One line under a reply: how much, how fast, and why it stopped where that is not the usual end."""
    usage = done.usage
    parts = [f"{usage.completion_tokens} tokens", f"{usage.tokens_per_second:.1f} tokens/s"]
    if usage.time_to_first_token is not None:
        parts.append(f"first after {usage.time_to_first_token:.2f} s")
    if usage.cached_tokens:
        parts.append(f"{usage.prompt_tokens - usage.cached_tokens} of {usage.prompt_tokens} prompt tokens read")
    if note := CONTEXT_FULL if done.context_full else REASONS.get(done.reason):
        parts.append(f"{note}, while still thinking: no answer" if done.cut_in_thought else note)
    elif done.no_answer:
        parts.append("the model ended without an answer: ask again, or in other words")
    return " · ".join(parts)


CONTEXT_FULL = "the context is full: /new begins a new conversation"
REASONS = {
    "length": "stopped at the token limit",
    "cancelled": "stopped by you",
    "tool_limit": "stopped after too many tool calls in a row",
}


class _Stream:
    """Text that grows: printed for good up to where ``split`` says it is settled, drawn live after that."""

    def __init__(self, console: Console, split: Split, draw: Callable[[str], RenderableType]) -> None:
        self._console, self._split, self._draw = console, split, draw
        self._tail = ""
        self._ends_line = True
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
            self._live.start()

    def write(self, text: str) -> None:
        text = printable(text)
        if self._live is None:
            self._console.file.write(text)
            self._console.file.flush()
            self._ends_line = text.endswith("\n") if text else self._ends_line
            return
        self._tail += text
        if end := self._split(self._tail):
            self._live.console.print(self._draw(self._tail[:end].rstrip("\n")))
            self._tail = self._tail[end:]
        self._live.update(_Bottom(self._draw(self._tail)), refresh=True)

    def close(self) -> None:
        if self._live is None:
            if not self._ends_line:
                self._console.file.write("\n")
            return
        self._live.update("", refresh=True)
        self._live.stop()
        if self._tail.strip():
            self._console.print(self._draw(self._tail.rstrip("\n")))


@dataclass(frozen=True)
class _Bottom:
    """As many of the last lines as the screen has room for: what grows, a long code block say, is read at its end."""

    whole: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.whole, options, pad=False)[1 - console.height :]:
            yield from line
            yield Segment.line()


def _lines_end(text: str) -> int:
    """Whole lines are settled."""
    return text.rfind("\n") + 1


def _blocks_end(text: str) -> int:
    """All top-level Markdown blocks but the last are settled."""
    starts = [token.map[0] for token in MarkdownIt().enable("table").parse(text) if token.level == 0 and token.map]
    if len(starts) < 2:
        return 0
    return sum(len(line) for line in text.splitlines(keepends=True)[: starts[-1]])
