"""Show a reply while it arrives: the thought dim under its own rule, the answer as live Markdown.

Finished text is printed once and scrolls away. Only the unfinished end is redrawn. If the output is not a terminal, the
text is written as it arrives, without control codes. The module knows a conversation's events. It knows no model and no
input.
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

from gptoss_mlx import conversation
from gptoss_mlx.cli.terminal import printable
from gptoss_mlx.conversation import Done, ReplyEvent, Thought, ToolCall, ToolError
from gptoss_mlx.errors import shown

Split = Callable[[str], int]


class ReplyView:
    """Shows the events of one reply. As a context manager it restores the terminal on leaving."""

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
        """Show on a terminal how many of the prompt's ``total`` tokens are ``read``, until all are."""
        if read == total:
            self._close()
        elif self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._reading is None:
                self._reading = Live(console=self._console, auto_refresh=False, transient=True)
                self._reading.start()
            self._reading.update(Text(f"read {read:,} of {total:,} tokens", style="dim"), refresh=True)

    def show(self, event: ReplyEvent) -> None:
        """Show one event after those before it."""
        match event:
            case Thought(text):
                if self._thinking:
                    self._open("thinking", _lines_end, lambda tail: Text(tail, style="dim")).write(text)
            case conversation.Text(text):
                self._open("answer", _blocks_end, Markdown).write(text)
            case ToolCall():
                self._print_call(f"→ {event.name}({event.message.content})")
            case ToolError():
                self._print_call(f"→ {event.name}: {event.problem}")
            case Done():
                self._close()
                self._console.print(Text(summary(event), style="dim"))

    def _open(self, section: str, split: Split, draw: Callable[[str], RenderableType]) -> "_Stream":
        if self._section == section and self._stream is not None:
            return self._stream
        self._close()
        self._section = section
        if section == "thinking" or self._thinking:
            self._console.rule(section, style="dim", align="left", characters="─")
        self._stream = _Stream(self._console, split, draw)
        return self._stream

    def _print_call(self, line: str) -> None:
        self._close()
        self._console.print(Text(shown(line), style="cyan"))

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._reading is not None:
            self._reading.stop()
        self._section = self._stream = self._reading = None


def summary(done: Done) -> str:
    """Return the line under a reply: token counts, speed, and the reason if the reply did not end as usual."""
    usage = done.usage
    parts = [f"{usage.completion_tokens} tokens", f"{usage.tokens_per_second:.1f} tokens/s"]
    if usage.time_to_first_token is not None:
        parts.append(f"first after {usage.time_to_first_token:.2f} s")
    if usage.cached_tokens:
        parts.append(f"{usage.prompt_tokens - usage.cached_tokens} of {usage.prompt_tokens} prompt tokens read")
    if why := CONTEXT_FULL if done.context_full else REASONS.get(done.reason):
        parts.append(f"{why}, while still thinking: no answer" if done.cut_in_thought else why)
    elif done.no_answer:
        parts.append("the model gave no answer: ask again, or in other words")
    return " · ".join(parts)


CONTEXT_FULL = "the context is full: type /new for a new conversation"
REASONS = {
    "length": "stopped at the token limit",
    "cancelled": "stopped by you",
    "tool_limit": "stopped after too many tool calls in a row",
}


class _Stream:
    """Text that grows. ``split`` returns how much of it is final and can be printed; the rest is redrawn live."""

    def __init__(self, console: Console, split: Split, draw: Callable[[str], RenderableType]) -> None:
        self._console = console
        self._split = split
        self._draw = draw
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
    """Draws the last lines of ``whole`` that fit on the screen, because new text of a long block comes at its end."""

    whole: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.whole, options, pad=False)[1 - console.height :]:
            yield from line
            yield Segment.line()


def _lines_end(text: str) -> int:
    """Return the length of the complete lines, which are final."""
    return text.rfind("\n") + 1


def _blocks_end(text: str) -> int:
    """Return the length of all top-level Markdown blocks but the last. They are final."""
    starts = [token.map[0] for token in MarkdownIt().enable("table").parse(text) if token.level == 0 and token.map]
    if len(starts) < 2:
        return 0
    return sum(len(line) for line in text.splitlines(keepends=True)[: starts[-1]])
